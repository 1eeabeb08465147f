// Package hacache_test holds the rules of the repository as tests: who may import whom, what every package must have,
// and what no file may contain. A rule that only lives in a document is broken by the first person who has not read it.
package hacache_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const modulePath = "github.com/hacache/hacache"

// imports says which packages of ours each package may import. A package that is not listed fails the test: adding one
// means deciding where it stands. "x/..." stands for x and everything below it.
//
// The leaves know nothing of ours. The node is seen from outside only through its client and its process, so the
// harness cannot measure anything a user could not. Reports read results, never live objects.
var imports = map[string][]string{
	"proto/cachepb":               {},
	"cachenode/seedtest/seedpb":   {}, // the same names as cachepb: nothing may import both
	"cachenode/internal/config":   {},
	"cachenode/internal/mutant":   {},
	"cachenode/internal/handicap": {},
	"cachenode/internal/faults":   {},
	"chaos/internal/history":      {},
	"chaos/internal/scenario":     {},
	"reports/result":              {},

	"cachenode/internal/store":                       {"proto/cachepb", "cachenode/internal/mutant"},
	"cachenode/internal/wire":                        {"proto/cachepb"},
	"cachenode/internal/peer":                        {"proto/cachepb", "cachenode/internal/mutant", "cachenode/internal/wire"},
	"cachenode/internal/replication":                 {"proto/cachepb", "cachenode/internal/mutant", "cachenode/internal/faults"},
	"cachenode/internal/replication/replicationtest": {"proto/cachepb", "cachenode/internal/mutant", "cachenode/internal/replication"},
	"cachenode/internal/gateway":                     {"proto/cachepb", "cachenode/internal/mutant", "cachenode/internal/replication", "cachenode/internal/store", "cachenode/internal/wire"},
	"cachenode/internal/server":                      {"proto/cachepb", "cachenode/internal/handicap", "cachenode/internal/gateway", "cachenode/internal/store", "cachenode/internal/peer"},
	"cachenode/internal/admin":                       {"proto/cachepb"},
	"cachenode/node":                                 {"proto/cachepb", "cachenode/client", "cachenode/internal/..."},

	"cachenode/client":            {"proto/cachepb"},
	"cachenode/client/clienttest": {"proto/cachepb", "cachenode/client"},
	"cachenode/examples/embedded": {"proto/cachepb", "cachenode/client", "cachenode/node"},
	"cachenode/proc":              {"proto/cachepb", "cachenode/client"},
	"cachenode":                   {"proto/cachepb", "cachenode/...", "internal/command"},

	"loadgen/load": {"proto/cachepb", "cachenode/client", "reports/result"},
	"loadgen":      {"proto/cachepb", "cachenode/client", "cachenode/proc", "loadgen/...", "reports/result", "reports/render", "internal/command", "internal/interrupt"},

	"chaos/internal/cluster": {"proto/cachepb", "cachenode/client", "cachenode/proc", "chaos/internal/live"},
	"chaos/internal/fault":   {"proto/cachepb", "chaos/internal/cluster", "chaos/internal/hostile", "chaos/internal/live"},
	"chaos/internal/live":    {},
	"chaos/internal/hostile": {"proto/cachepb", "cachenode/client"},
	"chaos/internal/check":   {"chaos/internal/history", "reports/result"},
	"chaos/internal/runner": {
		"proto/cachepb", "cachenode/client", "cachenode/proc", "chaos/internal/scenario", "chaos/internal/cluster", "chaos/internal/fault",
		"chaos/internal/history", "chaos/internal/check", "loadgen/load", "reports/result", "internal/interrupt",
	},
	"chaos": {"proto/cachepb", "cachenode/client", "cachenode/proc", "chaos/internal/...", "reports/result", "reports/render", "internal/command", "internal/interrupt"},

	"reports/render":  {"reports/result", "reports/compare"},
	"reports/compare": {"reports/result"},
	"reports":         {"reports/...", "internal/command", "internal/interrupt"},

	"internal/bubble":    {},
	"internal/command":   {"internal/interrupt"},
	"internal/interrupt": {},
	"internal/notices":   {},
}

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath  string
	Dir         string
	Doc         string
	GoFiles     []string
	CgoFiles    []string
	Imports     []string
	TestGoFiles []string
}

// packages lists the packages of this module, by their path inside it.
func packages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Doc,GoFiles,CgoFiles,Imports,TestGoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	all := map[string]goPackage{}
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles)+len(p.CgoFiles) > 0 { // else it holds tests only, like this one
			all[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, modulePath), "/")] = p
		}
	}
}

// allowed says whether the list of a package covers another one.
func allowed(list []string, imported string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		prefix, tree := strings.CutSuffix(entry, "/...")
		return imported == prefix || tree && strings.HasPrefix(imported, prefix+"/")
	})
}

func TestAllowed(t *testing.T) {
	list := []string{"a", "b/..."}
	for imported, want := range map[string]bool{"a": true, "a/x": false, "b": true, "b/x": true, "bb": false, "c": false} {
		if got := allowed(list, imported); got != want {
			t.Errorf("allowed(%q, %q) = %v, expected %v", list, imported, got, want)
		}
	}
}

func TestImports(t *testing.T) {
	for name, p := range packages(t) {
		list, known := imports[name]
		if !known {
			t.Errorf("%s is not in the table of this test: add it and say what it may import", name)
			continue
		}
		for _, i := range p.Imports {
			imported, ours := strings.CutPrefix(i, modulePath+"/")
			if ours && !allowed(list, imported) {
				t.Errorf("%s imports %s; it may import %q of ours", name, imported, list)
			}
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	for name, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", name)
		}
	}
}

// parseDir parses the Go files of a directory whose names pass keep.
func parseDir(t *testing.T, set *token.FileSet, dir string, keep func(name string) bool) []*ast.File {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".go") || !keep(e.Name()) {
			continue
		}
		f, err := parser.ParseFile(set, filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// isCall says whether e calls pkg.name, as in time.Sleep.
func isCall(e ast.Node, pkg string, names ...string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg && slices.Contains(names, sel.Sel.Name)
}

// The state machine is a function of the log: it never asks what time it is, starts nothing, and touches no network.
func TestStoreIsAPureStateMachine(t *testing.T) {
	set := token.NewFileSet()
	files := parseDir(t, set, "cachenode/internal/store", func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
	if len(files) == 0 {
		t.Fatal("no files found")
	}
	for _, f := range files {
		for _, i := range f.Imports {
			for _, banned := range []string{`"net"`, `"net/`, `"os"`, `"math/rand`, `"crypto/rand"`} {
				if strings.HasPrefix(i.Path.Value, banned) {
					t.Errorf("%s: the store imports %s", set.Position(i.Pos()), i.Path.Value)
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: the store starts a goroutine", set.Position(n.Pos()))
			}
			if isCall(n, "time", "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick") {
				t.Errorf("%s: the store asks for the time", set.Position(n.Pos()))
			}
			return true
		})
	}
}

// A test that sleeps on the real clock is slow when it passes and flaky when it does not. Time passes for free inside
// a synctest bubble; what cannot live in one (another process, a socket) is polled, with the pause in the head of the
// loop that has the deadline. TestMain may sleep: it turns the test binary into a child that waits to be killed.
func TestNoTestSleeps(t *testing.T) {
	dirs := map[string]bool{}
	walkTree(t, func(file string) {
		if strings.HasSuffix(file, "_test.go") {
			dirs[path.Dir(file)] = true
		}
	})
	for dir := range dirs {
		set := token.NewFileSet()
		files := parseDir(t, set, dir, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
		for _, pos := range sleeps(files) {
			t.Errorf("%s: time.Sleep outside of a synctest bubble", set.Position(pos))
		}
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				if isCall(n, "synctest", "Test") {
					t.Errorf("%s: synctest.Test, which can kill the race detector: expected bubble.Test", set.Position(n.Pos()))
				}
				return true
			})
		}
	}
}

// sleeps finds the calls of time.Sleep in the test files of one directory that run on the real clock as far as the eye
// can see: not in the function given to bubble.Test or to a helper that calls it, and not the pause of a polling
// loop with a condition.
func sleeps(files []*ast.File) (found []token.Pos) {
	bubbles := map[string]bool{}
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if isCall(n, "bubble", "Test") {
					bubbles[fn.Name.Name] = true
				}
				return true
			})
		}
	}
	var visit func(ast.Node) bool
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			return n.Name.Name != "TestMain"
		case *ast.CallExpr:
			if helper, ok := n.Fun.(*ast.Ident); isCall(n, "bubble", "Test") || ok && bubbles[helper.Name] {
				return false
			}
			if isCall(n, "time", "Sleep") {
				found = append(found, n.Pos())
			}
		case *ast.ForStmt:
			if n.Cond != nil && n.Post != nil { // all but the pause
				if n.Init != nil {
					ast.Inspect(n.Init, visit)
				}
				ast.Inspect(n.Cond, visit)
				ast.Inspect(n.Body, visit)
				return false
			}
		}
		return true
	}
	for _, f := range files {
		ast.Inspect(f, visit)
	}
	return found
}

func TestSleeps(t *testing.T) {
	const source = `package x
func virtual(t *testing.T, f func()) { bubble.Test(t, func(t *testing.T) { f() }) }
func TestMain(m *testing.M) { time.Sleep(1) }
func f() {
`
	for code, want := range map[string]int{
		`time.Sleep(1)`: 1,
		`bubble.Test(t, func(t *testing.T) { time.Sleep(1) })`:                  0,
		`virtual(t, func() { time.Sleep(1) })`:                                  0,
		`for !ready() { time.Sleep(1) }`:                                        1,
		`for end := late(); !ready(end); time.Sleep(1) {}`:                      0,
		`for ; !ready(); time.Sleep(1) { time.Sleep(2) }`:                       1,
		`for { time.Sleep(1) }`:                                                 1,
		`t.Run("x", func(t *testing.T) { go time.Sleep(1); defer time.Now() })`: 1,
		`clock.Sleep(1); wait(time.Sleep)`:                                      0,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", source+code+"\n}", parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(sleeps([]*ast.File{f})); got != want {
			t.Errorf("%s: %d found, expected %d", code, got, want)
		}
	}
}

// The README's example is what a reader copies first: it must compile against the client as it is.
func TestReadmeExampleCompiles(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, found := strings.Cut(string(text), "```go\n")
	code, _, closed := strings.Cut(code, "```")
	if !found || !closed {
		t.Fatal("README.md has no Go example")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "gofmt", "-l", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("the example is not formatted: %v %s", err, out)
	}
}

// Links of the documents lead somewhere, to a heading if they name one, and every make target that they name exists.
func TestDocumentsTellTheTruth(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	target := regexp.MustCompile("`make ([a-z-]+)|(?m)^make ([a-z-]+)")
	walkTree(t, func(file string) {
		if !strings.HasSuffix(file, ".md") || strings.Contains(file, "testdata") {
			return
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := filepath.Join(filepath.Dir(file), filepath.FromSlash(m[1]))
			if m[1] == "" {
				to = file
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link %s leads nowhere", file, m[1])
			} else if m[2] != "" && !slices.Contains(anchors(t, to), m[2]) {
				t.Errorf("%s: there is no heading #%s in %s", file, m[2], to)
			}
		}
		for _, m := range target.FindAllStringSubmatch(string(text), -1) {
			name := m[1] + m[2]
			if !regexp.MustCompile(`(?m)^` + name + `:`).Match(makefile) {
				t.Errorf("%s: there is no make %s", file, name)
			}
		}
	})
}

// anchors returns the names under which the headings of a document can be linked to.
func anchors(t *testing.T, file string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// walkTree calls visit with the path of each file that belongs to the repository.
func walkTree(t *testing.T, visit func(file string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || file == "bin" || file == "out") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() && d.Name() != ".git" { // a file in a linked worktree
			visit(filepath.ToSlash(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// machinePath finds absolute paths of the machine that somebody happened to work on.
var machinePath = regexp.MustCompile(`(^|[^A-Za-z0-9_./-])/(home|root|work|Users)/[A-Za-z0-9_.-]+`)

// What is committed must mean the same on every machine.
func TestNoMachinePaths(t *testing.T) {
	walkTree(t, func(file string) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(data) || path.Base(file) == "repo_test.go" {
			return
		}
		for i, line := range strings.Split(string(data), "\n") {
			if m := machinePath.FindString(line); m != "" {
				t.Errorf("%s:%d: path of one machine: %s", file, i+1, strings.TrimSpace(m))
			}
		}
	})
}

func TestMachinePath(t *testing.T) {
	for text, want := range map[string]bool{
		"see /home/anna/src": true, `"/root/x"`: true, "https://example.org/home/x": false, "/var/lib/cachenode": false, "/homepage": false,
	} {
		if got := machinePath.MatchString(text); got != want {
			t.Errorf("%q: %v, expected %v", text, got, want)
		}
	}
}
