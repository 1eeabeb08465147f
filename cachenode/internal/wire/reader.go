package wire

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"
)

// Wire types, and tags made of a field number and one of them.
const (
	typeVarint  = 0
	typeFixed64 = 1
	typeBytes   = 2
)

// reader goes through the fields of one message. The zero value of bad becomes true at the first byte that this package
// does not understand, and stays so.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) more() bool { return len(r.b) > 0 && !r.bad }

func (r *reader) varint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := uint64(r.b[0])
		r.b = r.b[1:]
		return v
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// next returns the tag of the next field and its value: a number, or the bytes of a string or message. Of a field that has
// no place in the messages of this package the tag is 0, which is no tag.
func (r *reader) next() (tag, v uint64, p []byte) {
	// Nearly all tags and lengths have one byte or two, and nearly all of what is read is fields like these.
	b, at := r.b, 1
	if len(b) < 4 {
		return r.any()
	}
	if tag = uint64(b[0]); tag >= 0x80 {
		if b[1] >= 0x80 {
			return r.any()
		}
		tag, at = tag&0x7f|uint64(b[1])<<7, 2
	}
	n := uint64(b[at])
	at++
	switch {
	case tag&7 == typeBytes && n < 0x80:
	case tag&7 == typeBytes && b[at] < 0x80:
		n = n&0x7f | uint64(b[at])<<7
		at++
	case tag&7 == typeVarint && n < 0x80:
		r.b = b[at:]
		return tag, n, nil
	default:
		return r.any()
	}
	end := at + int(n)
	if end > len(b) {
		return r.any()
	}
	r.b = b[end:]
	return tag, 0, b[at:end:end]
}

// any is next for fields of any length.
func (r *reader) any() (tag, v uint64, p []byte) {
	tag = r.varint()
	switch tag & 7 {
	case typeVarint:
		v = r.varint()
	case typeFixed64:
		if len(r.b) < 8 {
			r.bad = true
			return 0, 0, nil
		}
		v = binary.LittleEndian.Uint64(r.b)
		r.b = r.b[8:]
	case typeBytes:
		n := r.varint()
		if n > uint64(len(r.b)) {
			r.bad = true
			return 0, 0, nil
		}
		p = r.b[:n:n]
		r.b = r.b[n:]
	default:
		r.bad = true
	}
	if r.bad {
		return 0, 0, nil
	}
	return tag, v, p
}

// text returns the string in p. It shares its memory.
func (r *reader) text(p []byte) string {
	if !utf8.Valid(p) {
		r.bad = true // the generated code says how it is wrong
		return ""
	}
	return unsafe.String(unsafe.SliceData(p), len(p))
}

// maxNames is how many names of caches are remembered: as many as a node has at most.
const maxNames = 1024

// names remembers the names of caches, of which there are few: so that each operation need not hold on to the message that
// it came in because of a name.
var names struct {
	known atomic.Pointer[map[string]string]
	grow  sync.Mutex
}

// name returns the string in p, which is the name of a cache.
func (r *reader) name(p []byte) string {
	if m := names.known.Load(); m != nil {
		if s, ok := (*m)[string(p)]; ok {
			return s
		}
	}
	s := r.text(p)
	if r.bad || len(s) > 64 {
		return s
	}
	names.grow.Lock()
	defer names.grow.Unlock()
	old := names.known.Load()
	size := 0
	if old != nil {
		size = len(*old)
	}
	if size >= maxNames {
		return s
	}
	m := make(map[string]string, size+1)
	if old != nil {
		for k := range *old {
			m[k] = k
		}
	}
	s = string(p)
	m[s] = s
	names.known.Store(&m)
	return s
}
