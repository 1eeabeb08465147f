package load

import "time"

// Turns divides time between two loads that are compared, so that each is offered in short stretches that lie between
// those of the other: a machine that becomes slower while both are measured becomes slower for both. Time goes in pairs of
// turns, one of each load; which of the two is first is drawn for each pair, or something that comes back in the same
// rhythm would always meet the same one. Both loads have to begin at the same moment.
//
// It is a pure function of time. nil is a load that has all of it.
type Turns struct {
	For   time.Duration // length of a turn, more than 0
	Pause time.Duration // after each turn: what is in flight then ends in it
	Seed  uint64        // of the order; the same for both loads
	Load  int           // 0 or 1
}

// pair is the time of one turn of each load.
func (t *Turns) pair() time.Duration { return 2 * (t.For + t.Pause) }

// Last is how long n turns of both loads last.
func (t *Turns) Last(n int) time.Duration { return time.Duration(n) * t.pair() }

// begin is when the load's turn in a pair begins, since the start of the loads.
func (t *Turns) begin(pair int64) time.Duration {
	at := time.Duration(pair) * t.pair()
	draw := newRandom(t.Seed, turnStream).at(uint64(pair))
	if int(draw.below(2)) != t.Load {
		at += t.For + t.Pause
	}
	return at
}

// at is when the load's own time, of which nothing passes between its turns, has come to own.
func (t *Turns) at(own time.Duration) time.Duration {
	if t == nil {
		return own
	}
	return t.begin(int64(own/t.For)) + own%t.For
}

// away is how long it is until the load's next turn; 0 in one.
func (t *Turns) away(since time.Duration) time.Duration {
	if t == nil {
		return 0
	}
	pair := int64(since / t.pair())
	switch begin := t.begin(pair); {
	case since < begin:
		return begin - since
	case since < begin+t.For:
		return 0
	}
	return t.begin(pair+1) - since
}

// share is what part of d, a number of whole pairs, is the load's.
func (t *Turns) share(d time.Duration) time.Duration {
	if t == nil {
		return d
	}
	return time.Duration(float64(d) * float64(t.For) / float64(t.pair()))
}
