package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/hacache/hacache/cachenode/internal/config"
	"github.com/hacache/hacache/cachenode/internal/peer"
)

// reloadInterval is how often the files of certificates are looked at.
const reloadInterval = time.Second

// serverTLS returns the configuration of the listener, nil without TLS.
func (n *Node) serverTLS() *tls.Config {
	if n.keys == nil {
		return nil
	}
	return n.keys.Server()
}

// peerCredentials returns what secures streams to the node of a host, nil without TLS.
func (n *Node) peerCredentials() func(host string) credentials.TransportCredentials {
	if n.keys == nil {
		return nil
	}
	return func(host string) credentials.TransportCredentials {
		return credentials.NewTLS(n.keys.Peer(host, func() []string { return n.roster.Load().names }))
	}
}

// CheckPeer implements server.Backend: whoever opened a stream has to name another host of the list, and with TLS needs the
// certificate of it. The connections of peers are not limited in number, so a claim that would be refused later anyway must
// be refused here.
func (n backend) CheckPeer(ctx context.Context) error {
	id, _, _, err := peer.ParsePeer(ctx)
	if err != nil {
		return err
	}
	roster := n.roster.Load()
	slot := roster.slotOf(id)
	if slot < 0 || slot == n.cfg.Self {
		return fmt.Errorf("id %016x is not of another node in a list of %d hosts", id, len(roster.names))
	}
	if n.keys == nil {
		return nil
	}
	if conn, ok := grpcpeer.FromContext(ctx); ok {
		if info, ok := conn.AuthInfo.(credentials.TLSInfo); ok {
			return n.keys.CheckPeer(&info.State, roster.names[slot], roster.names)
		}
	}
	return errors.New("its connection has no certificate")
}

// Reload reads the files of certificates again and uses them from the next connection on; connections that are up go on.
// A running node does so by itself every second. An error says what is wrong with the files; then what was in use stays.
func (n *Node) Reload() error {
	if n.keys == nil {
		return nil
	}
	changed, err := n.keys.Reload()
	n.noteReload(changed, err)
	return err
}

// noteReload logs and counts what became of a reload: an error once, however often it comes.
func (n *Node) noteReload(changed bool, err error) {
	n.reloads.mu.Lock()
	defer n.reloads.mu.Unlock()
	switch {
	case changed:
		n.reloads.ok++
		n.log.Info("certificates reloaded", expiryAttrs(n.keys.Expiry())...)
	case err != nil && err.Error() != n.reloads.last:
		n.reloads.failed++
		n.log.Error("the certificates on disk cannot be used, those in use stay", "error", err)
	}
	n.reloads.last = ""
	if err != nil {
		n.reloads.last = err.Error()
	}
}

func expiryAttrs(all []config.Expiry) []any {
	var attrs []any
	for _, e := range all {
		attrs = append(attrs, e.Certificate+"_expires", e.Time.UTC().Format(time.RFC3339))
	}
	return attrs
}

// watchKeys takes certificates over when their files change.
func (n *Node) watchKeys(ctx context.Context) {
	if n.keys == nil {
		return
	}
	ticker := time.NewTicker(reloadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = n.Reload() // logged
		}
	}
}
