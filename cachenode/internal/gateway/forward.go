package gateway

import (
	"fmt"
	"strconv"
	"strings"
)

// Forwards keep their order.
//
// A gateway sends operations to the leader over streams that break, come back and stand in for each other. If one is lost
// and the next arrives, the lost one, sent again, would land after it; a Put that was acknowledged first would undo a
// Remove that a quorum acknowledged. So forwards are numbered without gaps, and the leader takes them only in that order:
// what comes after a gap is refused, and its gateway then sends everything that is open again, in the order of arrival,
// under a new epoch. What the leader had taken already is found in the session table and not applied again.

// forwardStream is a numbered stream of forwards: a gateway's own, or what a leader has seen of one.
type forwardStream struct {
	epoch uint64
	next  uint64
}

// name returns the name of the forward that is i after the next one.
func (s *forwardStream) name(i uint64) string {
	return strconv.FormatUint(s.epoch, 36) + "." + strconv.FormatUint(s.next+i, 36)
}

func parseForward(ref string) (epoch, n uint64, err error) {
	a, b, ok := strings.Cut(ref, ".")
	if !ok {
		return 0, 0, fmt.Errorf("gateway: forward %q has no epoch", ref)
	}
	if epoch, err = strconv.ParseUint(a, 36, 64); err != nil {
		return 0, 0, err
	}
	n, err = strconv.ParseUint(b, 36, 64)
	return epoch, n, err
}

// inOrder reports whether a forward of the gateway id is the next one, and notes that it came.
func (g *Gateway) inOrder(id uint64, ref string) bool {
	epoch, n, err := parseForward(ref)
	if err != nil {
		return false
	}
	s := g.streams[id]
	if s == nil {
		s = &forwardStream{}
		g.streams[id] = s
	}
	if epoch > s.epoch {
		s.epoch, s.next = epoch, 0
	}
	if epoch != s.epoch || n != s.next {
		return false
	}
	s.next++
	return true
}
