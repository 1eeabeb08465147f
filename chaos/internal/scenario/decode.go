package scenario

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Error is one mistake in a scenario file.
type Error struct {
	File         string
	Line, Column int // from 1; 0 where the file as a whole is meant
	Message      string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors are all mistakes of one file in the order of their lines.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and validates the file at path. The error is an [Errors] if the
// content is at fault.
func Load(path string) (*Scenario, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// maxFileSize bounds what Parse accepts; a scenario is written by hand.
const maxFileSize = 1 << 20

// Parse reads a scenario. file is only used in messages. Every mistake is
// reported, as an [Errors].
func Parse(file string, data []byte) (*Scenario, error) {
	dec := &decoder{file: file, at: map[string]*yaml.Node{}}
	if len(data) > maxFileSize {
		dec.errorf(nil, "the file has %d bytes; expected at most %d", len(data), maxFileSize)
		return nil, dec.result()
	}
	var doc yaml.Node
	if len(bytes.TrimSpace(comments.ReplaceAll(data, nil))) == 0 {
		dec.errorf(nil, "the file is empty; expected a scenario")
		return nil, dec.result()
	}
	if err := yaml.Load(data, &doc); err != nil {
		dec.syntax(err)
		return nil, dec.result()
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		dec.errorf(nil, "no document; expected a scenario")
		return nil, dec.result()
	}
	s := new(Scenario)
	dec.value(doc.Content[0], reflect.ValueOf(s).Elem(), "")
	s.validate(dec)
	if err := dec.result(); err != nil {
		return nil, err
	}
	return s, nil
}

var comments = regexp.MustCompile(`(?m)^\s*#.*$`)

// nodeDecoder is a type with a syntax of its own.
type nodeDecoder interface {
	decode(dec *decoder, n *yaml.Node, path string)
}

// decoder walks a YAML tree into Go values and collects what is wrong.
type decoder struct {
	file  string
	errs  Errors
	at    map[string]*yaml.Node // where a field stands, by path
	depth int
}

func (d *decoder) errorf(n *yaml.Node, format string, args ...any) {
	e := &Error{File: d.file, Message: strings.TrimPrefix(fmt.Sprintf(format, args...), ": ")}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	d.errs = append(d.errs, e)
}

// errorAt reports a mistake at the field with the given path, or at the
// nearest enclosing one that the file has.
func (d *decoder) errorAt(path, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	at := path
	for d.at[at] == nil && at != "" {
		at = at[:max(0, strings.LastIndexAny(at, ".["))]
	}
	n := d.at[at]
	if n != nil && n.Kind == yaml.ScalarNode && slices.ContainsFunc(d.errs, func(e *Error) bool { return e.Line == n.Line && e.Column == n.Column }) {
		return // it could not be read, so that its zero value is wrong too is no news
	}
	d.errorf(n, "%s: %s", path, msg)
}

func (d *decoder) result() error {
	if len(d.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(d.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return d.errs
}

func (d *decoder) syntax(err error) {
	if le, ok := errors.AsType[*yaml.LoadError](err); ok {
		d.errs = append(d.errs, &Error{File: d.file, Line: le.Mark.Line, Column: le.Mark.Column, Message: "not YAML: " + le.Message})
		return
	}
	d.errorf(nil, "not one YAML document: %v", err)
}

// resolve follows an alias. Depth is bounded by value.
func (d *decoder) resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// maxDepth is far above what the format needs; it stops an alias that
// contains itself.
const maxDepth = 32

// value decodes n into v, which is addressable, and reports what does not fit.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.depth++; d.depth > maxDepth {
		d.errorf(n, "%s: nested deeper than %d levels", path, maxDepth)
		d.depth--
		return
	}
	defer func() { d.depth-- }()
	n = d.resolve(n)
	if _, seen := d.at[path]; !seen {
		d.at[path] = n
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if c, ok := v.Addr().Interface().(nodeDecoder); ok {
		c.decode(d, n, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.fields(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Map:
		d.table(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) fields(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, "%s: found %s; expected a mapping with %s", path, shown(n), strings.Join(fieldNames(v.Type()), ", "))
		return
	}
	byName := map[string]reflect.Value{}
	optional := map[string]bool{}
	for i := range v.NumField() {
		name, opts, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		byName[name] = v.Field(i)
		optional[name] = opts == "omitempty"
	}
	seen := map[string]bool{}
	for key, value := range pairs(n) {
		f, known := byName[key.Value]
		switch {
		case !known || key.Kind != yaml.ScalarNode:
			names := fieldNames(v.Type())
			d.errorf(key, "%s: unknown field %s%s; expected one of %s", path, shown(key), hint(key.Value, names), strings.Join(names, ", "))
		case seen[key.Value]:
			d.errorf(key, "%s: field %s is given twice", path, key.Value)
		default:
			d.at[join(path, key.Value)] = value
			d.value(value, f, join(path, key.Value))
		}
		seen[key.Value] = true
	}
	for _, name := range fieldNames(v.Type()) {
		if !optional[name] && !seen[name] {
			d.errorf(n, "%s: field %s is missing", path, name)
		}
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.errorf(n, "%s: found %s; expected a list", path, shown(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		d.value(c, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, "%s: found %s; expected a mapping from names", path, shown(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for key, value := range pairs(n) {
		k := reflect.ValueOf(key.Value)
		if v.MapIndex(k).IsValid() {
			d.errorf(key, "%s: %s is given twice", path, key.Value)
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.at[join(path, key.Value)] = key
		d.value(value, e, join(path, key.Value))
		v.SetMapIndex(k, e)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.errorf(n, "%s: found %s; expected a single value", path, shown(n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.Tag != "!!str" && n.Tag != "!!int" && n.Tag != "!!float" && n.Tag != "!!bool" {
			d.errorf(n, "%s: found %s; expected text", path, shown(n))
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Value != "true" && n.Value != "false" {
			d.errorf(n, "%s: found %s; expected true or false", path, shown(n))
			return
		}
		v.SetBool(n.Value == "true")
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if err != nil {
			d.errorf(n, "%s: found %s; expected a whole number", path, shown(n))
			return
		}
		v.SetInt(int64(i))
	case reflect.Uint64:
		u, err := strconv.ParseUint(n.Value, 0, 64)
		if err != nil {
			d.errorf(n, "%s: found %s; expected a whole number, zero or more", path, shown(n))
			return
		}
		v.SetUint(u)
	default:
		panic("scenario: no decoder for " + v.Type().String())
	}
}

// weighted decodes a name, or names with weights.
func (d *decoder) weighted(n *yaml.Node, path, what string, names []string) map[string]int {
	m := map[string]int{}
	if n.Kind == yaml.ScalarNode {
		d.oneOf(n, path, what, names)
		m[n.Value] = 1
		return m
	}
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		d.errorf(n, "%s: found %s; expected one %s, or weights such as {%s: 70, %s: 30}", path, shown(n), what, names[0], names[1])
		return m
	}
	for key, value := range pairs(n) {
		d.oneOf(key, path, what, names)
		w, err := strconv.Atoi(value.Value)
		if err != nil || w < 1 {
			d.errorf(value, "%s.%s: found %s; expected a weight, a whole number from 1", path, key.Value, shown(value))
		}
		if _, twice := m[key.Value]; twice {
			d.errorf(key, "%s: %s is given twice", path, key.Value)
		}
		m[key.Value] = w
	}
	return m
}

func (d *decoder) oneOf(n *yaml.Node, path, what string, names []string) {
	if !slices.Contains(names, n.Value) {
		d.errorf(n, "%s: unknown %s %s%s; expected one of %s", path, what, shown(n), hint(n.Value, names), strings.Join(names, ", "))
	}
}

func pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

func reflectOf[T any](p *T) reflect.Value { return reflect.ValueOf(p).Elem() }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return names
}

// shown renders a node for a message: quoted, short, on one line.
func shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	v := n.Value
	if len(v) > 40 {
		v = v[:40] + "..."
	}
	return strconv.Quote(v)
}

// hint returns a question with the nearest of the names, or nothing if none
// is near enough to be meant.
func hint(got string, names []string) string {
	best, distance := "", max(1, len(got)/3)+1
	for _, name := range names {
		if d := editDistance(strings.ToLower(got), strings.ToLower(name)); d < distance {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// editDistance is the number of inserted, deleted, replaced or swapped
// neighbouring bytes that turn a into b. Inputs are names; long ones are cut.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, prev, cur := rows[0], rows[1], rows[2]
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		rows = [3][]int{prev, cur, before}
	}
	return rows[1][len(b)]
}

// sortedKeys makes error order independent of map order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
