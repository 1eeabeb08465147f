package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hacache/hacache/cachenode/client"
	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/internal/command"
)

// connectFlags are the flags of every command that talks to a node. They default to the node that the same environment
// would configure, so that inside its container no flag is needed.
func connectFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "addr", Aliases: []string{"a"}, Usage: "`HOST:PORT` of a node, or several with commas: the first that answers (default: the node this environment configures) [$CACHE_ADDR]"},
		&cli.StringFlag{Name: "token", Usage: "token [$CACHE_AUTH_TOKEN]"},
		&cli.StringFlag{Name: "config", Usage: "YAML `FILE` of the node, for its address, token and TLS [$CACHE_CONFIG]"},
		&cli.DurationFlag{Name: "timeout", Aliases: []string{"t"}, Value: 5 * time.Second, Usage: "bound of the whole command"},
		outputFlag(),
	}, more...)
}

// target is where a command connects to.
type target struct {
	addrs    []string
	origin   string // of addrs
	base     client.Config
	tlsOn    bool
	resolve  func(identity string) string
	tokenSet bool
}

func newTarget(c *cli.Command) (*target, error) {
	if limit := c.Duration("timeout"); limit <= 0 {
		return nil, command.Usagef("flag --timeout: %v; expected more than 0", limit)
	}
	addrs := os.Getenv("CACHE_ADDR")
	in := config.Input{File: c.String("config"), Env: os.Environ(), Client: true, Elsewhere: addrs != "" || c.IsSet("addr")}
	cfg, _, err := config.Load(in)
	if err != nil {
		return nil, command.Usage(err)
	}
	t := &target{origin: cfg.Origin("listen"), resolve: func(id string) string { return id }}
	if len(cfg.DialMap) > 0 {
		t.resolve = func(id string) string {
			if a, ok := cfg.DialMap[id]; ok {
				return a
			}
			return id
		}
	}
	switch {
	case c.IsSet("addr"):
		addrs, t.origin = c.String("addr"), "flag --addr"
	case addrs != "":
		t.origin = "env CACHE_ADDR"
	default:
		addrs = reachable(cfg.Listen)
	}
	for _, a := range strings.FieldsFunc(addrs, func(r rune) bool { return r == ',' || r == ' ' }) {
		addr := config.Identity(a)
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" || port == "0" {
			return nil, command.Usagef("%s: %q is not an address; expected host:port", t.origin, a)
		}
		t.addrs = append(t.addrs, addr)
	}
	if len(t.addrs) == 0 {
		return nil, command.Usagef("%s: no address; expected host:port", t.origin)
	}
	t.base = client.Config{Token: string(cfg.Token)}
	if c.IsSet("token") {
		t.base.Token = c.String("token")
	}
	t.tokenSet = t.base.Token != ""
	if cfg.TLS.Enabled {
		keys, err := cfg.LoadKeys()
		if err != nil {
			return nil, command.Usage(err)
		}
		t.base.TLS, t.tlsOn = keys.Client(), true
	}
	return t, nil
}

// reachable turns the address of a listener into one to dial.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// config is the client configuration for one address.
func (t *target) config(addr string) client.Config {
	cfg := t.base
	cfg.Addr = addr
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
	}
	return cfg
}

// dial connects to the first address that answers.
func (t *target) dial(ctx context.Context) (*client.Conn, error) {
	var errs []string
	for _, addr := range t.addrs {
		conn, err := client.Dial(ctx, t.config(addr))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, t.explain(addr, err))
		if _, denied := errors.AsType[*client.AuthError](err); denied {
			break // the token is the same for all
		}
	}
	return nil, errors.New(strings.Join(errs, "; "))
}

// explain says in one line why there is no connection, and what to look at.
func (t *target) explain(addr string, err error) string {
	if denied, ok := errors.AsType[*client.AuthError](err); ok {
		if !t.tokenSet {
			return addr + " asks for a token; expected one in flag --token or env CACHE_AUTH_TOKEN"
		}
		return fmt.Sprintf("%s refused the token of flag --token or env CACHE_AUTH_TOKEN (%s)", addr, denied.Detail)
	}
	where := fmt.Sprintf("no node answers at %s (%s)", addr, t.origin)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return where + ": connection refused"
	}
	if reason := t.diagnose(addr); reason != "" {
		return fmt.Sprintf("no connection with %s (%s): %s", addr, t.origin, reason)
	}
	if down, ok := errors.AsType[*client.DownError](err); ok && down.Err != nil {
		err = down.Err
	}
	return where + ": " + strings.Join(strings.Fields(err.Error()), " ")
}

// diagnose says why there is no stream with somebody who listens, if it is for TLS; else "". It shakes hands by itself:
// through gRPC only a text of what went wrong arrives.
func (t *target) diagnose(addr string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return ""
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if t.base.TLS == nil {
		speaksTLS := false
		_ = tls.Client(conn, &tls.Config{
			InsecureSkipVerify: true, // nothing is said to it
			VerifyConnection:   func(tls.ConnectionState) error { speaksTLS = true; return nil },
		}).HandshakeContext(ctx)
		if speaksTLS {
			return "it speaks TLS, and this command does not: see CACHE_TLS and CACHE_TLS_CA_SERVER"
		}
		return ""
	}
	secured := tls.Client(conn, t.base.TLS.Clone())
	if err = secured.HandshakeContext(ctx); err == nil {
		_, err = secured.Read(make([]byte, 1)) // what it has against us comes after the handshake
	}
	return config.ExplainHandshake(err)
}

// withConn runs f with a connection, within the command's timeout.
func withConn(ctx context.Context, c *cli.Command, f func(ctx context.Context, conn *client.Conn) error) error {
	t, err := newTarget(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return f(ctx, conn)
}
