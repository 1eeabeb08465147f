package replication

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger hands the library's log to slog. What it reports as information is of interest only to who debugs an
// election, since the core logs each change of role once itself.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) printf(level slog.Level, format string, v ...any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "raft: "+fmt.Sprintf(format, v...))
	}
}

func (l raftLogger) print(level slog.Level, v ...any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "raft: "+fmt.Sprint(v...))
	}
}

func (l raftLogger) Debug(v ...any)                 { l.print(slog.LevelDebug-4, v...) }
func (l raftLogger) Debugf(format string, v ...any) { l.printf(slog.LevelDebug-4, format, v...) }
func (l raftLogger) Info(v ...any)                  { l.print(slog.LevelDebug, v...) }
func (l raftLogger) Infof(format string, v ...any)  { l.printf(slog.LevelDebug, format, v...) }

func (l raftLogger) Warning(v ...any)                 { l.print(slog.LevelDebug, v...) }
func (l raftLogger) Warningf(format string, v ...any) { l.printf(slog.LevelDebug, format, v...) }
func (l raftLogger) Error(v ...any)                   { l.print(slog.LevelError, v...) }
func (l raftLogger) Errorf(format string, v ...any)   { l.printf(slog.LevelError, format, v...) }

// A broken invariant of the library is a bug; going on could lose data.
func (l raftLogger) Fatal(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
