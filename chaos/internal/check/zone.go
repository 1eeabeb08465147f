package check

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"time"
)

// access is one operation on one register: a write of a value, or a read that
// returned it. Value 0 is that there is none, which is also how a register
// begins. The operation took effect at one moment from call to ret, ends
// included.
type access struct {
	write     bool
	value     int64
	call, ret time.Duration
	proc      int64
	node      string
}

func (a access) String() string {
	what := "read of"
	if a.write {
		what = "write of"
	}
	value := "nothing"
	if a.value != 0 {
		value = fmt.Sprintf("version %d", a.value)
	}
	return fmt.Sprintf("%s %s on %s from %.6fs to %.6fs", what, value, a.node, a.call.Seconds(), a.ret.Seconds())
}

// zone is a write with all reads of its value. Between the first of them to
// return and the last one to be called the register held that value, whatever
// the order of the rest.
type zone struct {
	write access
	first access // returned first
	last  access // called last
}

// forward reports whether some operation of the zone had returned when another
// was called, so that there is a time in which the register surely held its
// value. A zone that is not forward only needs one moment, anywhere from
// last.call to first.ret.
func (z *zone) forward() bool { return z.first.ret < z.last.call }

// unordered reports whether some operation of x came before one of y, and the
// other way round: then no order of the two writes explains the reads.
func unordered(x, y *zone) bool {
	return x.first.ret < y.last.call && y.first.ret < x.last.call
}

// anachronism is why a history is not linearizable.
type anachronism struct{ zones []*zone }

func (a *anachronism) String() string {
	if len(a.zones) == 1 {
		return a.zones[0].last.String() + ", which was not written before"
	}
	x, y := a.zones[0], a.zones[1]
	return fmt.Sprintf("%s came before %s, but %s came before %s", x.first, y.last, y.first, x.last)
}

// outOfOrder decides whether the accesses of one register, whose values are
// written once each and 0 never, are linearizable: nil if they are. It takes
// O(n log n) steps.
//
// The criterion is Gibbons and Korach's ("Testing shared memories", 1997, the
// case of reads that tell their write): no read ends before its write begins,
// no two forward zones overlap, and no other zone lies within a forward one.
func outOfOrder(accesses []access) *anachronism {
	zones := map[int64]*zone{}
	for _, a := range accesses {
		if a.write {
			zones[a.value] = &zone{write: a, first: a, last: a}
		}
	}
	beginning := access{write: true, call: -1, ret: -1, node: "every node"}
	zones[0] = &zone{write: beginning, first: beginning, last: beginning}
	for _, a := range accesses {
		z := zones[a.value]
		if z == nil || a.ret < z.write.call {
			return &anachronism{[]*zone{{last: a}}}
		}
		if a.ret < z.first.ret {
			z.first = a
		}
		if a.call > z.last.call {
			z.last = a
		}
	}
	var forward, backward []*zone
	for _, z := range zones {
		if z.forward() {
			forward = append(forward, z)
		} else {
			backward = append(backward, z)
		}
	}
	slices.SortFunc(forward, func(a, b *zone) int {
		return cmp.Or(cmp.Compare(a.first.ret, b.first.ret), cmp.Compare(a.write.value, b.write.value))
	})
	for i := 1; i < len(forward); i++ {
		if x, y := forward[i-1], forward[i]; unordered(x, y) {
			return &anachronism{[]*zone{x, y}}
		}
	}
	slices.SortFunc(backward, func(a, b *zone) int { return cmp.Compare(a.write.value, b.write.value) }) // the same answer each time
	for _, z := range backward {
		// Forward zones do not overlap, so only the last one to begin before z
		// can reach past it.
		i := sort.Search(len(forward), func(i int) bool { return forward[i].first.ret >= z.last.call })
		if i > 0 && unordered(forward[i-1], z) {
			return &anachronism{[]*zone{forward[i-1], z}}
		}
	}
	return nil
}
