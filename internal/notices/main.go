// Command notices writes THIRD_PARTY_NOTICES: every module that is linked into one of the four programs, the kind of
// its licence, and the texts that the licences ask to be passed on. It fails on a licence it does not know and on one
// that may not be linked, so that neither comes in unnoticed.
package main

//go:generate go run . -o ../../THIRD_PARTY_NOTICES ../../cachenode ../../loadgen ../../chaos ../../reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

func main() {
	out := flag.String("o", "", "file to write; standard output if empty")
	flag.Parse()
	if err := run(*out, flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "notices: %v\n", err)
		os.Exit(1)
	}
}

func run(out string, programs []string) error {
	modules, err := linked(programs)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := write(&buf, modules); err != nil {
		return err
	}
	if out == "" {
		_, err := os.Stdout.Write(buf.Bytes())
		return err
	}
	return os.WriteFile(out, buf.Bytes(), 0o644)
}

// module is one dependency and where its files are.
type module struct{ Path, Version, Dir string }

// linked is the modules whose packages the programs import, on the systems they are built for, sorted by path.
func linked(programs []string) ([]module, error) {
	seen := map[string]module{}
	for _, goos := range []string{"linux", "darwin"} {
		cmd := exec.Command("go", append([]string{"list", "-deps", "-json=Module"}, programs...)...)
		cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		data, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go list for %s: %w\n%s", goos, err, stderr.Bytes())
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		for {
			var p struct {
				Module *struct {
					module
					Main bool
				}
			}
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("go list for %s: %w", goos, err)
			}
			if p.Module != nil && !p.Module.Main {
				seen[p.Module.Path] = p.Module.module
			}
		}
	}
	modules := make([]module, 0, len(seen))
	for _, m := range seen {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return modules, nil
}

// kinds are recognised by a sentence that only they have; the first match wins.
var kinds = []struct {
	name     string
	sentence string
	allowed  bool
}{
	{"FreeType (FTL)", "The FreeType License, which is similar to the original BSD license", true}, // offered beside the GPL, and chosen here
	{"AGPL", "GNU AFFERO GENERAL PUBLIC LICENSE", false},
	{"LGPL", "GNU LESSER GENERAL PUBLIC LICENSE", false},
	{"GPL", "GNU GENERAL PUBLIC LICENSE", false},
	{"Apache-2.0", "Apache License Version 2.0", true},
	{"MPL-2.0", "Mozilla Public License Version 2.0", true},
	{"BSD-3-Clause", "Neither the name", true},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce", true},
	{"MIT", "Permission is hereby granted, free of charge", true},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software", true},
	{"CC-BY-4.0", "Creative Commons Attribution 4.0 International", true},
	{"OFL-1.1", "SIL OPEN FONT LICENSE", true},
}

func kind(text string) (name string, allowed bool) {
	flat := strings.ToLower(strings.Join(strings.Fields(text), " "))
	for _, k := range kinds {
		if strings.Contains(flat, strings.ToLower(k.sentence)) {
			return k.name, k.allowed
		}
	}
	return "", false
}

// texts is the licence files of a module and, for the licences that ask for it, its NOTICE files.
func texts(m module) ([]string, error) {
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (go mod download fetches it)", m.Path, err)
	}
	var out []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		stem := strings.TrimSuffix(strings.TrimSuffix(name, ".MD"), ".TXT")
		if e.IsDir() || !slices.Contains([]string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"}, stem) && !strings.HasPrefix(name, "LICENSE-") && !strings.HasPrefix(name, "LICENSE.") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Path, err)
		}
		out = append(out, clean(data))
	}
	// FreeType-Go names its licences in LICENSE and keeps the text of the one chosen here elsewhere.
	if ftl, err := os.ReadFile(filepath.Join(m.Dir, "licenses", "ftl.txt")); err == nil {
		out = append(out, clean(ftl))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s %s has no licence file in %s", m.Path, m.Version, m.Dir)
	}
	return out, nil
}

// clean makes data UTF-8 with plain line ends: some of these files are older than both conventions.
func clean(data []byte) string {
	text := string(data)
	if !utf8.Valid(data) { // Latin-1: its bytes are the code points
		runes := make([]rune, len(data))
		for i, b := range data {
			runes[i] = rune(b)
		}
		text = string(runes)
	}
	return strings.TrimSpace(strings.NewReplacer("\r\n", "\n", "\f", "").Replace(text))
}

func write(w *bytes.Buffer, modules []module) error {
	type entry struct {
		text string
		used []string
	}
	var entries []*entry
	var rows [][2]string
	for _, m := range modules {
		list, err := texts(m)
		if err != nil {
			return err
		}
		var names []string
		for _, text := range list {
			name, allowed := kind(text)
			if name != "" && !allowed {
				return fmt.Errorf("%s %s is under %s, which may not be linked", m.Path, m.Version, name)
			}
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
			i := slices.IndexFunc(entries, func(e *entry) bool { return e.text == text })
			if i < 0 {
				entries, i = append(entries, &entry{text: text}), len(entries)
			}
			entries[i].used = append(entries[i].used, m.Path)
		}
		if len(names) == 0 {
			return fmt.Errorf("%s %s: its licence is not one that this program knows", m.Path, m.Version)
		}
		rows = append(rows, [2]string{m.Path + " " + m.Version, strings.Join(names, ", ")})
	}
	fmt.Fprintf(w, "Third-party notices\n===================\n\nThe programs of hacache contain these modules. Written by internal/notices (make generate).\n\n")
	for _, r := range rows {
		fmt.Fprintf(w, "%-88s %s\n", r[0], r[1])
	}
	for _, e := range entries {
		fmt.Fprintf(w, "\n%s\n%s\n\n%s\n", strings.Repeat("-", 120), strings.Join(e.used, "\n"), e.text)
	}
	return nil
}
