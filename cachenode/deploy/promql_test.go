package deploy_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// query is what one PromQL expression asks for: as much of it as can be compared with what a node exports. Syntax is
// promtool's matter.
type query struct {
	selectors []selector
	functions []string
	labels    []string // of by, without, on, ignoring, group_left and group_right
}

// selector is the name of a metric and what its labels have to be.
type selector struct {
	metric   string
	matchers []matcher
}

type matcher struct{ label, op, value string }

var (
	promToken    = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[A-Za-z_:][\w:]*|=~|!~|!=|==|<=|>=|[0-9][\w.]*|\S`)
	promName     = regexp.MustCompile(`^[A-Za-z_:][\w:]*$`)
	promGrouping = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	promKeywords = []string{"and", "or", "unless", "bool", "offset"}
)

// parseQuery takes an expression apart. It knows no precedence, since names are all that it is after.
func parseQuery(expr string) (q query) {
	tokens := append(promToken.FindAllString(expr, -1), "")
	for i := 0; i < len(tokens); i++ {
		t, next := tokens[i], tokens[min(i+1, len(tokens)-1)]
		switch {
		case !promName.MatchString(t) || slices.Contains(promKeywords, t):
		case slices.Contains(promGrouping, t):
			if next != "(" {
				continue // group_left without labels
			}
			for i += 2; i < len(tokens) && tokens[i] != ")"; i++ {
				if tokens[i] != "," {
					q.labels = append(q.labels, tokens[i])
				}
			}
		case next == "(" || slices.Contains(promGrouping, next):
			if next == "(" || next == "by" || next == "without" {
				q.functions = append(q.functions, t)
				continue
			}
			q.selectors = append(q.selectors, selector{metric: t}) // m on (…) m
		default:
			s := selector{metric: t}
			if next == "{" {
				for i += 2; i+2 < len(tokens) && tokens[i] != "}"; i++ {
					if tokens[i] == "," {
						continue
					}
					s.matchers = append(s.matchers, matcher{tokens[i], tokens[i+1], strings.Trim(tokens[i+2], `"`)})
					i += 2
				}
			}
			q.selectors = append(q.selectors, s)
		}
	}
	return q
}

// ofPrometheus are names that no node exports: the labels that Prometheus adds, and the metric that it makes.
var (
	labelsOfPrometheus  = []string{"job", "instance"}
	metricsOfPrometheus = []string{"up"}
	functions           = strings.Fields("sum min max avg count floor scalar time histogram_quantile rate increase changes max_over_time")
)

// exports is what nodes export: for each metric its labels, and the values seen of each.
type exports map[string]map[string][]string

func (e exports) add(metric, label, value string) {
	if e[metric] == nil {
		e[metric] = map[string][]string{}
	}
	if label != "" && !slices.Contains(e[metric][label], value) {
		e[metric][label] = append(e[metric][label], value)
	}
}

// check says what is wrong with an expression, given what the nodes export; one line each.
func (e exports) check(expr string) (wrong []string) {
	q := parseQuery(expr)
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	known := slices.Clone(labelsOfPrometheus)
	for _, s := range q.selectors {
		labels, ok := e[s.metric]
		if !ok && !slices.Contains(metricsOfPrometheus, s.metric) {
			bad("no node exports %s", s.metric)
			continue
		}
		for label := range labels {
			known = append(known, label)
		}
		for _, m := range s.matchers {
			values, has := labels[m.label]
			switch {
			case slices.Contains(labelsOfPrometheus, m.label):
			case !has:
				bad("%s has no label %s", s.metric, m.label)
			case strings.HasSuffix(m.op, "="):
				if !slices.Contains(values, m.value) {
					bad("%s is never %s=%q, only %q", s.metric, m.label, m.value, values)
				}
			default:
				for v := range strings.SplitSeq(m.value, "|") {
					if !slices.Contains(values, v) {
						bad("%s is never %s=%q, only %q", s.metric, m.label, v, values)
					}
				}
			}
		}
	}
	for _, label := range q.labels {
		if !slices.Contains(known, label) {
			bad("none of the metrics has a label %s", label)
		}
	}
	for _, f := range q.functions {
		if !slices.Contains(functions, f) {
			bad("there is no function %s here; add it to the test if Prometheus has it", f)
		}
	}
	return wrong
}

// The check that the other tests rest on can fail: each kind of misspelling is found, and what is right passes.
func TestExportsCheck(t *testing.T) {
	e := exports{}
	e.add("cachenode_ready", "", "")
	e.add("cachenode_operations_total", "outcome", "ok")
	e.add("cachenode_operations_total", "outcome", "refused")
	for expr, want := range map[string][]string{
		`sum by (job) (cachenode_ready) == 0`:                                         nil,
		`cachenode_ready and on (job, instance) cachenode_ready == 1`:                 nil,
		`cachenode_ready{job="$job"} < on (job) group_left cachenode_ready`:           nil,
		`rate(cachenode_operations_total{outcome=~"ok|refused", job="x"}[5m])`:        nil,
		`floor(count by (job) (up{job=~"cachenode.*"}) / 2) + 1`:                      nil,
		`sum(rate(cachenode_operations_total{outcome="ok"}[$__rate_interval])) > 1e3`: nil,
		`cachenode_raedy == 0`:                                               {"no node exports cachenode_raedy"},
		`max(max_over_time(cachenode_redy[5m]))`:                             {"no node exports cachenode_redy"},
		`cachenode_operations_total{result="ok"}`:                            {"cachenode_operations_total has no label result"},
		`cachenode_operations_total{outcome="okay"}`:                         {`cachenode_operations_total is never outcome="okay", only ["ok" "refused"]`},
		`cachenode_operations_total{outcome!="okay", outcome!~"ok|refused"}`: {`cachenode_operations_total is never outcome="okay", only ["ok" "refused"]`},
		`cachenode_operations_total{outcome=~"ok|lost"}`:                     {`cachenode_operations_total is never outcome="lost", only ["ok" "refused"]`},
		`sum by (outcom) (cachenode_operations_total)`:                       {"none of the metrics has a label outcom"},
		`summ(cachenode_ready)`:                                              {"there is no function summ here; add it to the test if Prometheus has it"},
		`cachenode_ready and on (jop) cachenode_ready and cachenode_nope`:    {"no node exports cachenode_nope", "none of the metrics has a label jop"},
	} {
		if diff := cmp.Diff(want, e.check(expr)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", expr, diff)
		}
	}
}
