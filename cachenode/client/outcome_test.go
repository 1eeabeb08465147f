package client

import (
	"testing"

	"github.com/hacache/hacache/proto/cachepb"
)

// Every code, known or not, on every kind of operation: a write is ok only when
// the node says so, fail only when the code promises that it never takes
// effect, and unknown otherwise.
func TestClassify(t *testing.T) {
	codes := []cachepb.Code{99}
	for n := range cachepb.Code_name {
		codes = append(codes, cachepb.Code(n))
	}
	for _, kind := range Kinds[1:] {
		for _, code := range codes {
			isDefinite := code >= 1 && code <= 10
			if got := classify(kind, ackMod, modTrue, code); got != StatusOK {
				t.Errorf("%s mod_res=true %s: %s", kind, code, got)
			}
			want := StatusInfo
			if isDefinite {
				want = StatusFail
			}
			if got := classify(kind, ackMod, modFalse, code); got != want {
				t.Errorf("%s mod_res=false %s: got %s, want %s", kind, code, got, want)
			}
			if got := classify(kind, ackError, modAbsent, code); got != want {
				t.Errorf("%s Error %s: got %s, want %s", kind, code, got, want)
			}
			if code == cachepb.Code_OK && !kind.Leveled() {
				want = StatusOK
			}
			if got := classify(kind, ackMod, modAbsent, code); got != want {
				t.Errorf("%s bare ack %s: got %s, want %s", kind, code, got, want)
			}
		}
	}
	for _, code := range codes {
		want := StatusFail
		if code == cachepb.Code_OK {
			want = StatusOK
		}
		if got := classify(KindGet, ackGet, modAbsent, code); got != want {
			t.Errorf("get %s: got %s, want %s", code, got, want)
		}
	}
	if got := classify(KindGet, ackError, modAbsent, cachepb.Code_OK); got != StatusFail {
		t.Errorf("get answered by Error: %s", got)
	}
}

// Without an answer only a write that was handed to the stream is unknown.
func TestUnanswered(t *testing.T) {
	for _, kind := range Kinds {
		for _, sent := range []bool{false, true} {
			want := StatusFail
			if sent && kind != KindGet {
				want = StatusInfo
			}
			if got := unanswered(kind, sent); got != want {
				t.Errorf("%s sent=%v: got %s, want %s", kind, sent, got, want)
			}
		}
	}
}
