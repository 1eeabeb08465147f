package render

import (
	"math"
	"strconv"
	"strings"
)

// compactPath writes the data of an SVG path in few bytes: relative commands, tenths of a pixel, no step that does not move.
// Every point is rounded by itself, so that errors do not add up along the path. It understands what gonum's canvas writes:
// M, L, A and Z with absolute coordinates; anything else comes back as it was.
func compactPath(d string) string {
	var b strings.Builder
	p := pathWriter{out: &b}
	for rest := d; rest != ""; {
		command := rest[0]
		end := strings.IndexAny(rest[1:], "MLAZ") + 1
		if end == 0 {
			end = len(rest)
		}
		numbers, ok := pathNumbers(rest[1:end])
		if !ok || !p.add(command, numbers) {
			return d
		}
		rest = rest[end:]
	}
	p.flush()
	return b.String()
}

// pathNumbers reads numbers between commas and spaces.
func pathNumbers(s string) ([]float64, bool) {
	var out []float64
	for f := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || math.Abs(v) > 1e6 {
			return nil, false
		}
		out = append(out, v)
	}
	return out, true
}

// pathWriter is at (x, y), in tenths. A level or upright step waits in (dx, dy) for others in its direction.
type pathWriter struct {
	out          *strings.Builder
	x, y, dx, dy int
	fromX, fromY int // where the part began
}

func (p *pathWriter) add(command byte, n []float64) bool {
	tenth := func(v float64) int { return int(math.Round(10 * v)) }
	switch {
	case command == 'Z' && len(n) == 0:
		p.flush()
		p.out.WriteByte('z')
		p.x, p.y = p.fromX, p.fromY
	case command == 'M' && len(n) == 2:
		p.flush()
		x, y := tenth(n[0]), tenth(n[1])
		p.write('m', x-p.x, y-p.y)
		p.x, p.y, p.fromX, p.fromY = x, y, x, y
	case command == 'L' && len(n) == 2:
		p.line(tenth(n[0])-p.x, tenth(n[1])-p.y)
	case command == 'A' && len(n) == 7:
		p.flush()
		x, y := tenth(n[5]), tenth(n[6])
		p.write('a', tenth(n[0]), tenth(n[1]), tenth(n[2]), tenth(n[3]), tenth(n[4]), x-p.x, y-p.y)
		p.x, p.y = x, y
	default:
		return false
	}
	return true
}

func (p *pathWriter) line(dx, dy int) {
	p.x, p.y = p.x+dx, p.y+dy
	level, upright := dy == 0 && p.dy == 0 && dx*p.dx >= 0, dx == 0 && p.dx == 0 && dy*p.dy >= 0
	if !level && !upright {
		p.flush()
	}
	p.dx, p.dy = p.dx+dx, p.dy+dy
	if p.dx != 0 && p.dy != 0 {
		p.flush()
	}
}

// flush writes the step that waits.
func (p *pathWriter) flush() {
	switch {
	case p.dx != 0 && p.dy != 0:
		p.write('l', p.dx, p.dy)
	case p.dx != 0:
		p.write('h', p.dx)
	case p.dy != 0:
		p.write('v', p.dy)
	}
	p.dx, p.dy = 0, 0
}

// write writes a command with tenths; a minus needs no space before it.
func (p *pathWriter) write(command byte, tenths ...int) {
	p.out.WriteByte(command)
	for i, v := range tenths {
		if i > 0 && v >= 0 {
			p.out.WriteByte(' ')
		}
		p.out.WriteString(strconv.FormatFloat(float64(v)/10, 'f', -1, 64))
	}
}
