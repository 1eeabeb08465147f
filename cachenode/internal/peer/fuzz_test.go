package peer

import "testing"

// FuzzPeerValue proves that what is read as a peer's metadata is in range and is written as it was read.
func FuzzPeerValue(f *testing.F) {
	f.Add(peerValue(1, 0, LaneControl))
	f.Add(peerValue(1<<64-1, 6, LaneSnapshot))
	f.Add("0;0;data")
	f.Add("1;-1;data")
	f.Add("1;1;")
	f.Fuzz(func(t *testing.T, s string) {
		id, slot, lane, err := parsePeerValue(s)
		if err != nil {
			return
		}
		if id == 0 || slot < 0 || lane >= lanes {
			t.Errorf("%q is read as %x, %d, %v", s, id, slot, lane)
		}
		if id2, slot2, lane2, err := parsePeerValue(peerValue(id, slot, lane)); err != nil || id2 != id || slot2 != slot || lane2 != lane {
			t.Errorf("%q is read as %x, %d, %v, and that as %x, %d, %v, %v", s, id, slot, lane, id2, slot2, lane2, err)
		}
	})
}
