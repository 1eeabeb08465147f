package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func makeModule(t *testing.T, path string, files map[string]string) module {
	t.Helper()
	m := module{Path: path, Version: "v1.0.0", Dir: t.TempDir()}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

const mit = "Copyright A\n\nPermission is hereby granted, free of charge, to any person"

func TestWrite(t *testing.T) {
	var buf bytes.Buffer
	err := write(&buf, []module{
		makeModule(t, "example.org/a", map[string]string{"LICENSE": mit, "readme.md": "not this"}),
		makeModule(t, "example.org/b", map[string]string{"LICENSE.md": mit + "\r\n"}),
		makeModule(t, "example.org/c", map[string]string{"COPYING": "Apache License\n   Version 2.0", "NOTICE": "made by C\r\nin M\xfcnchen\f"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := buf.String()
	if n := strings.Count(got, "Permission is hereby granted"); n != 1 {
		t.Errorf("the same text is there %d times, expected once for both", n)
	}
	for _, want := range []string{"example.org/a\nexample.org/b\n", "made by C\nin München\n", "Apache-2.0", "MIT"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "not this") {
		t.Error("a file that is no licence was taken")
	}
}

// Whatever may not be linked, or is not understood, stops the build instead of being written down.
func TestWriteRefuses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"AGPL":         {"LICENSE": "GNU AFFERO GENERAL PUBLIC LICENSE"},
		"GPL":          {"COPYING": "GNU GENERAL\nPUBLIC LICENSE"},
		"not one that": {"LICENSE": "All rights reserved."},
		"no licence":   {"README": "hello"},
	} {
		err := write(new(bytes.Buffer), []module{makeModule(t, "example.org/x", files)})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: got error %v, expected one about %q", files, err, name)
		}
	}
}
