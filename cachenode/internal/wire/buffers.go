package wire

import (
	"math/bits"
	"sync"
)

// buffers are byte slices for messages, by size. gRPC's own pool clears each before it hands it out, and between 32 KiB and
// 1 MiB has none: a batch of 40 KiB paid, on either side, for the clearing of a MiB, and the processor's caches with it. Here
// a slice is at most twice as large as it has to be, and holds what it held: whoever gets one fills it.
type buffers struct {
	pools [largestBuffer - smallestBuffer + 1]sync.Pool // of *[]byte, by the power of two that is their capacity
}

const (
	smallestBuffer = 11 // 2 KiB: gRPC pools nothing of up to 1 KiB
	largestBuffer  = 22 // 4 MiB, the largest message
)

var pool buffers

// Get implements mem.BufferPool.
func (p *buffers) Get(n int) *[]byte {
	power := max(bits.Len(uint(max(n, 1)-1)), smallestBuffer)
	if power > largestBuffer {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.pools[power-smallestBuffer].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<power)
	return &b
}

// Put implements mem.BufferPool.
func (p *buffers) Put(b *[]byte) {
	power := bits.Len(uint(cap(*b))) - 1
	if power >= smallestBuffer && power <= largestBuffer && cap(*b) == 1<<power {
		p.pools[power-smallestBuffer].Put(b)
	}
}
