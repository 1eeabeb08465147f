package render

import (
	"encoding/xml"
	"fmt"
	"io"

	"github.com/hacache/hacache/reports/compare"
	"github.com/hacache/hacache/reports/result"
)

// The elements of a JUnit file that every reader of such files knows.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr,omitempty"`
		Stamp    string      `xml:"timestamp,attr,omitempty"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitMessage `xml:"failure,omitempty"`
		Error   *junitMessage `xml:"error,omitempty"`
		Skipped *junitMessage `xml:"skipped,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
	}
)

// add counts a case by what it holds.
func (s *junitSuite) add(c junitCase) {
	s.Tests++
	switch {
	case c.Failure != nil:
		s.Failures++
	case c.Error != nil:
		s.Errors++
	case c.Skipped != nil:
		s.Skipped++
	}
	s.Cases = append(s.Cases, c)
}

func (s *junitSuite) write(w io.Writer) error {
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(s); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// JUnit writes the checks and thresholds of r as test cases: a violation or a missed threshold is a failure, what could not be
// decided an error, and what was not exercised is skipped. How a run ended early is a case of its own.
func JUnit(w io.Writer, r *result.Run) error {
	s := junitSuite{Name: r.Name, Time: fmt.Sprintf("%.3f", r.Duration.Seconds())}
	if !r.Started.IsZero() {
		s.Stamp = r.Started.UTC().Format("2006-01-02T15:04:05")
	}
	for _, c := range r.Checks {
		one := junitCase{Class: string(r.Kind), Name: c.Name}
		switch c.Verdict {
		case result.Violated:
			one.Failure = &junitMessage{c.Detail}
		case result.Unknown:
			one.Error = &junitMessage{c.Detail}
		case result.NotExercised:
			one.Skipped = &junitMessage{"nothing in the run could have broken it"}
		}
		s.add(one)
	}
	for _, t := range r.Thresholds {
		one := junitCase{Class: string(r.Kind) + ".threshold", Name: t.Metric + ": " + t.Expr}
		if !t.Met {
			one.Failure = &junitMessage{"measured " + t.Got}
		}
		s.add(one)
	}
	for _, ended := range []string{r.Failure, r.Interrupted} {
		if ended != "" {
			s.add(junitCase{Class: string(r.Kind), Name: "the run reaches its end", Error: &junitMessage{ended}})
		}
	}
	return s.write(w)
}

// JUnit writes one case a metric and head that is judged, and one for each thing that fails without statistics.
func (c *Comparison) JUnit(w io.Writer) error {
	s := junitSuite{Name: c.Title}
	for _, g := range c.Gates {
		for _, b := range g.Broken {
			s.add(junitCase{Class: g.Head.Name, Name: "broken", Failure: &junitMessage{b}})
		}
		for i := range g.Differences {
			d := &g.Differences[i]
			if d.Outcome == compare.Shown || !c.Judged {
				continue
			}
			one := junitCase{Class: g.Head.Name, Name: d.Name}
			message := &junitMessage{fmt.Sprintf("change %s, interval %s, limit %s, p %s, %s", estimate(d), interval(d), limitText(d), probability(d), samplesText(d))}
			switch d.Outcome {
			case compare.Failed:
				one.Failure = message
			case compare.Undecided:
				one.Error = message
			case compare.Inconclusive, compare.Neutral:
				one.Skipped = message
			}
			s.add(one)
		}
	}
	return s.write(w)
}
