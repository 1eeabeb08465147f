package server

import (
	"log/slog"
	"sync"
	"time"
)

// complaintInterval is the least time between two lines of the log about the same.
const complaintInterval = 10 * time.Second

// complaints log what strangers do wrong: the first time at once, and as long as it goes on once in complaintInterval, with
// the number of times in between. Whoever sends a million wrong tokens fills no disk.
type complaints struct {
	log *slog.Logger

	mu     sync.Mutex
	topics map[string]*topic // by reason; as many as the program knows
}

type topic struct {
	at   time.Time
	more int
}

// add logs one complaint, or counts it. The attributes are those of the one that is logged.
func (c *complaints) add(msg, reason string, attrs ...any) {
	c.mu.Lock()
	t := c.topics[reason]
	if t == nil {
		t = &topic{}
		if c.topics == nil {
			c.topics = map[string]*topic{}
		}
		c.topics[reason] = t
	}
	if now := time.Now(); !t.at.IsZero() && now.Sub(t.at) < complaintInterval {
		t.more++
		c.mu.Unlock()
		return
	}
	more := t.more
	t.at, t.more = time.Now(), 0
	c.mu.Unlock()
	attrs = append([]any{"reason", reason}, attrs...)
	if more > 0 {
		attrs = append(attrs, "before", more)
	}
	c.log.Warn(msg, attrs...)
}
