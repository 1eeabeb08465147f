package client

import (
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/hacache/hacache/proto/cachepb"
)

// Kind is the kind of an operation. The zero value is KindGet.
type Kind uint8

// The operations of the contract. Insert and Remove are acknowledged at their
// [Level]; Put and Del are acknowledged by the node that received them, before
// they are replicated.
const (
	KindGet Kind = iota
	KindPut
	KindInsert
	KindDel
	KindRemove
)

// Kinds lists every kind in the order of its value.
var Kinds = [...]Kind{KindGet, KindPut, KindInsert, KindDel, KindRemove}

var kindNames = [...]string{"get", "put", "insert", "del", "remove"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Write reports whether the operation modifies the cache.
func (k Kind) Write() bool { return k != KindGet }

// Leveled reports whether the operation carries an ack level.
func (k Kind) Leveled() bool { return k == KindInsert || k == KindRemove }

// ParseKind is the inverse of [Kind.String].
func ParseKind(s string) (Kind, error) {
	for i, name := range kindNames {
		if s == name {
			return Kind(i), nil
		}
	}
	return 0, fmt.Errorf("operation %q: want get, put, insert, del or remove", s)
}

// Level is how far an Insert or Remove has to get before it is acknowledged.
// The zero value is LevelQuorum, the strongest.
type Level uint8

const (
	// LevelQuorum: a majority of the hosts has it.
	LevelQuorum Level = iota
	// LevelOnce: the leader and one other host have it.
	LevelOnce
	// LevelLeader: the leader has it.
	LevelLeader
)

// Levels lists every level in the order of its value.
var Levels = [...]Level{LevelQuorum, LevelOnce, LevelLeader}

var levelNames = [...]string{"quorum", "once", "leader"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level(%d)", uint8(l))
}

// ParseLevel is the inverse of [Level.String].
func ParseLevel(s string) (Level, error) {
	for i, name := range levelNames {
		if s == name {
			return Level(i), nil
		}
	}
	return 0, fmt.Errorf("ack level %q: want quorum, once or leader", s)
}

// Op is one operation. It is read while [Conn.Start] runs and not kept: the
// caller may reuse it, and the memory of Value, as soon as Start has returned.
type Op struct {
	Kind  Kind
	Cache string
	Key   string
	// Value is what a Put or Insert writes; nil writes the empty value.
	Value []byte

	// Level is used by Insert and Remove.
	Level Level
	// ReadMode is used by Get; the zero value reads the node's own copy.
	ReadMode cachepb.ReadTag_Mode
	// MaxStaleness bounds the age of what a Get with ReadTag_LOCAL may return,
	// in whole milliseconds; 0 leaves it to the node (500 ms by default).
	MaxStaleness time.Duration
	// TTL is used by Put and Insert, in whole milliseconds; 0 is the cache's
	// own default.
	TTL time.Duration

	// Deadline bounds the wait for an answer, counted from Start; 0 means
	// [Config.Timeout]. The node is told a little less, so that its definite
	// answer has a chance to arrive before the client gives up.
	Deadline time.Duration

	// Session, Seq and FirstUnacked make a write idempotent across
	// connections and nodes: an operation (Session, Seq) takes effect at most
	// once, and sequence numbers below FirstUnacked will never be sent again.
	// Session 0 means that the node tags the operation itself.
	Session      uint64
	Seq          uint64
	FirstUnacked uint64
}

// MaxOpBytes is the most that cache, key and value of an operation take
// together: what fits into the 4 MiB of a message that nodes of the original
// protocol accept. Nodes have limits of their own below it.
const MaxOpBytes = 4<<20 - 1<<10

// Check returns an [*OpError] for what no node takes, else nil. Whatever performs
// an operation checks it first.
func (op *Op) Check() error {
	if err := op.check(); err != nil {
		return err
	}
	return nil
}

// check is Check. On the wire such an operation would end the stream, and with it
// what others have in flight there.
func (op *Op) check() *OpError {
	switch size := len(op.Cache) + len(op.Key) + len(op.Value); {
	case int(op.Kind) >= len(kindNames):
		return op.refuse(cachepb.Code_INVALID, "there is no such kind of operation")
	case op.Kind.Leveled() && int(op.Level) >= len(levelNames):
		return op.refuse(cachepb.Code_INVALID, "there is no "+op.Level.String())
	case op.Kind == KindGet && cachepb.ReadTag_Mode_name[int32(op.ReadMode)] == "":
		return op.refuse(cachepb.Code_INVALID, fmt.Sprintf("there is no read mode %d", op.ReadMode))
	case size > MaxOpBytes:
		return op.refuse(cachepb.Code_TOO_LARGE, fmt.Sprintf("cache, key and value have %d bytes, at most %d fit into a message", size, MaxOpBytes))
	case !utf8.ValidString(op.Cache):
		return op.refuse(cachepb.Code_INVALID, fmt.Sprintf("the name of the cache, %q, is not UTF-8", op.Cache))
	case !utf8.ValidString(op.Key):
		return op.refuse(cachepb.Code_INVALID, fmt.Sprintf("the key, %q, is not UTF-8", op.Key))
	}
	return nil
}

func (op *Op) refuse(code cachepb.Code, detail string) *OpError {
	return &OpError{Kind: op.Kind, Code: code, Detail: detail}
}
