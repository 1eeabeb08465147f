package config

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a string that no formatting verb, log handler or encoder prints. Convert it to a string to use it.
type Secret string

const redacted = "[redacted]"

// Format implements fmt.Formatter, which covers every verb; String alone would let %d print the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// String says whether there is a secret, not which.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
