package history

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
)

// maxPending bounds how many operations may wait for the disk. It is several
// seconds of the highest load the harness offers; beyond it operations are
// counted as lost and the run cannot pass.
const maxPending = 1 << 20

// Writer records operations. Record is safe for concurrent use and does not
// wait for the disk.
type Writer struct {
	mu      sync.Mutex
	pending []Op
	lost    int64
	err     error // the first operation refused, or what the disk said
	closed  bool
	more    chan struct{} // has room for one; never closed

	file io.WriteCloser
	zip  *gzip.Writer
	buf  *bufio.Writer
	ops  int64
}

// Create makes the file at path and writes its header. Nothing else is written
// until [Writer.Run].
func Create(path string, h Header) (*Writer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	w, err := newWriter(f, h)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return w, nil
}

func newWriter(f io.WriteCloser, h Header) (*Writer, error) {
	h.Version = Version
	zip, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	w := &Writer{file: f, zip: zip, buf: bufio.NewWriterSize(zip, 1<<16), more: make(chan struct{}, 1)}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if _, err := w.buf.Write(append(head, '\n')); err != nil {
		return nil, err
	}
	return w, nil
}

// Record adds one operation. An operation that cannot be, or for which there
// is no room, is counted as lost.
func (w *Writer) Record(o Op) {
	err := o.Validate()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.closed {
		err = fmt.Errorf("recorded after the history was closed")
	}
	if err == nil && len(w.pending) >= maxPending {
		err = fmt.Errorf("more than %d operations wait for the disk", maxPending)
	}
	if err != nil {
		w.lost++
		w.fail(fmt.Errorf("history: %s %s/%s: %w", o.Kind, o.Cache, o.Key, err))
		return
	}
	w.pending = append(w.pending, o)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// fail keeps the first error. Called with mu held.
func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// Run writes what is recorded until [Writer.Close] was called, then finishes
// the file and returns the first thing that went wrong, if any: the history is
// then not complete.
func (w *Writer) Run() error {
	var batch []Op
	var line []byte
	for {
		<-w.more
		w.mu.Lock()
		batch, w.pending = w.pending, batch[:0]
		closed := w.closed
		w.mu.Unlock()
		for i := range batch {
			line = appendOp(line[:0], &batch[i])
			if _, err := w.buf.Write(line); err != nil {
				return w.finish(err)
			}
		}
		w.ops += int64(len(batch))
		if closed {
			return w.finish(nil)
		}
	}
}

// Close ends the history: Run returns after everything recorded before is
// written. Operations recorded after it are lost and counted.
func (w *Writer) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *Writer) finish(err error) error {
	w.mu.Lock()
	if err != nil {
		w.fail(fmt.Errorf("history: %w", err))
	}
	w.closed = true
	lost := w.lost
	w.mu.Unlock()
	if err == nil {
		end, merr := json.Marshal(line{Kind: endKind, Ops: w.ops, Lost: lost})
		if merr != nil {
			panic(merr) // a struct of numbers
		}
		_, err = w.buf.Write(append(end, '\n'))
	}
	for _, step := range []func() error{w.buf.Flush, w.zip.Close, w.file.Close} {
		if serr := step(); err == nil {
			err = serr
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.fail(fmt.Errorf("history: %w", err))
	}
	return w.err
}
