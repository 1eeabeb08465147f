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
	ln, err := open(c.ListenFD, c.Listen, c.Origin("listen"))
	if err == nil && c.ListenFD != 0 && c.closed() && !IsLoopback(ln.Addr().String()) {
		ln.Close()
		return nil, fmt.Errorf("env LISTEN_FDS: %s", exposed(ln.Addr().String()))
	}
	return ln, err
}

// closed reports whether other machines must not reach this node.
func (c *Config) closed() bool { return c.Token == "" && !c.Insecure }

// exposed says what is wrong with an address that they do reach.
func exposed(addr string) string {
	return addr + " is reachable from other machines and there is no token; set CACHE_AUTH_TOKEN, or listen on 127.0.0.1, or say --insecure"
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
