package node

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// BuildInfo says what a program was built from, as the Go tool recorded it. Fields are "" where it recorded nothing.
type BuildInfo struct {
	// Version is the module's version: a tag, or a pseudo-version made of time and revision; "devel" without either.
	Version string `json:"version"`
	// Revision is the commit, with "+dirty" appended if the tree was not as committed; Time is that of the commit.
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	// Go is the version of the toolchain, Platform the system and processor.
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Build returns what this program was built from.
var Build = sync.OnceValue(func() BuildInfo {
	b := BuildInfo{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty {
		b.Revision += "+dirty"
	}
	return b
})

// Version is that of Build.
func Version() string { return Build().Version }
