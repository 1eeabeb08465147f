package client

import (
	"testing"

	"go.uber.org/goleak"
)

// A Conn owns goroutines; Close must end all of them.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
