package render

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// none stands for a number that a run does not have.
const none = "–"

// formatDuration writes d with three significant digits and a unit that fits; none when it is 0, which in a result
// means "not reported".
func formatDuration(d time.Duration) string {
	switch abs := d.Abs(); {
	case d == 0:
		return none
	case abs < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case abs < 999500*time.Nanosecond:
		return threeDigits(float64(d)/1e3) + " µs"
	case abs < 999500*time.Microsecond:
		return threeDigits(float64(d)/1e6) + " ms"
	case abs < 100*time.Minute:
		return threeDigits(d.Seconds()) + " s"
	}
	return threeDigits(d.Hours()) + " h"
}

// formatTime writes a time since the start of the run, to the millisecond.
func formatTime(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + " s"
}

// formatOffset writes a time relative to something else, always with its sign.
func formatOffset(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	sign := "+"
	if d < 0 {
		sign = "−"
	}
	return sign + formatDuration(d.Abs())
}

// formatCount writes n with commas between the thousands.
func formatCount(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "−", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// formatRate writes a rate per second without its unit.
func formatRate(v float64) string {
	if math.Abs(v) >= 100 {
		return formatCount(int64(math.Round(v)))
	}
	return threeDigits(v)
}

// formatShare writes part of whole as a percentage that never rounds a difference away: all but one of a million is
// not "100 %", and one of a million is not "0 %".
func formatShare(part, whole int64) string {
	if whole == 0 {
		return none
	}
	share := 100 * float64(part) / float64(whole)
	for digits := 1; ; digits++ {
		text := strconv.FormatFloat(share, 'f', digits, 64)
		rounded, _ := strconv.ParseFloat(text, 64)
		if digits >= 8 || (part == 0 || rounded > 0) && (part == whole || rounded < 100) {
			if part == 0 || part == whole {
				text = strconv.FormatFloat(share, 'f', -1, 64)
			}
			return text + " %"
		}
	}
}

func formatBytes(n int64) string {
	switch {
	case n >= 1<<30:
		return threeDigits(float64(n)/(1<<30)) + " GiB"
	case n >= 1<<20:
		return threeDigits(float64(n)/(1<<20)) + " MiB"
	case n >= 1<<10:
		return threeDigits(float64(n)/(1<<10)) + " KiB"
	}
	return formatCount(n) + " B"
}

// threeDigits writes v with three significant digits, but keeps all digits before the point.
func threeDigits(v float64) string {
	if v == 0 {
		return "0"
	}
	_, exponent, _ := strings.Cut(strconv.FormatFloat(v, 'e', 2, 64), "e") // of v as it will be rounded
	e, err := strconv.Atoi(exponent)
	if err != nil {
		return strconv.FormatFloat(v, 'g', 3, 64) // NaN, Inf
	}
	return strconv.FormatFloat(v, 'f', min(max(2-e, 0), 6), 64)
}

// plainText makes s safe for a picture: valid UTF-8 without control characters, at most limit characters.
func plainText(s string, limit int) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == '\ufffe' || c == '\uffff' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "\ufffd"))
	if runes := []rune(s); len(runes) > limit {
		s = string(runes[:limit-1]) + "…"
	}
	return s
}

// slug makes s fit for a file name and an element id; different names may give the same one, see nameSet.
func slug(s string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		if b.Len() >= 40 {
			break
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteRune(c)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	return strings.Trim(b.String(), "-")
}

// nameSet hands out each name once.
type nameSet map[string]bool

// unique is base, or base with a number if that is taken.
func (n nameSet) unique(base string) string {
	name := base
	for i := 2; n[name]; i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	n[name] = true
	return name
}
