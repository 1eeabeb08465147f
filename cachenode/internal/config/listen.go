package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// OpenListener opens the listener of the cache service: the inherited one, or a new one on Listen. The error is one
// line that names the setting. Call it once; the caller closes the listener.
func (c *Config) OpenListener() (net.Listener, error) {
	return open(c.ListenFD, c.Listen, c.Origin("listen"))
}

// OpenAdminListener is OpenListener for the admin address. It returns nil, nil when none is configured.
func (c *Config) OpenAdminListener() (net.Listener, error) {
	if c.AdminFD == 0 && c.AdminAddr == "" {
		return nil, nil
	}
	return open(c.AdminFD, c.AdminAddr, c.Origin("admin_addr"))
}

func open(fd int, addr, origin string) (net.Listener, error) {
	if fd == 0 {
		ln, err := net.Listen("tcp", addr)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("%s: %s is in use by another process; expected a free port", origin, addr)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", origin, err)
		}
		return ln, nil
	}
	f := os.NewFile(uintptr(fd), "listener")
	if f == nil {
		return nil, fmt.Errorf("env LISTEN_FDS: %d is not a file descriptor", fd)
	}
	defer f.Close() // FileListener works on a duplicate
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("env LISTEN_FDS: descriptor %d is not a listening socket: %w", fd, err)
	}
	return ln, nil
}
