package node_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hacache/hacache/cachenode/node"
)

// Everything that is wrong with a configuration is said at once, one line each, by the names of its fields.
func TestConfigMistakes(t *testing.T) {
	_, err := node.New(node.Config{
		Hosts: []string{"a:1", "b:1", "b:1"}, Self: "c:1", Listen: "0.0.0.0:7070", Token: "two words",
		ElectionTimeout: time.Millisecond, MaxStaleness: time.Millisecond, FormGrace: -time.Second, LogRetainBytes: 1, ShutdownTimeout: time.Millisecond,
		MaxValueBytes: 2 << 20, DefaultTTL: -1, TLS: &node.TLS{Cert: "no.pem", Key: "no.key", CA: "no.ca"},
		Caches: []node.Cache{{Name: ""}},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`Self: "c:1" is not one of Hosts`, "Hosts: b:1 is there twice", "Token: ", "ElectionTimeout: ", "MaxStaleness: ", "FormGrace: ",
		"LogRetainBytes: ", "ShutdownTimeout: ", "MaxValueBytes: ", "DefaultTTL: ", "TLS.Cert: ", "TLS.Key: ", "TLS.CA: ", "caches.: ",
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) && !strings.Contains(err.Error(), ": "+want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

// Without a token a node is not reachable from other machines unless that is asked for.
func TestConfigWithoutToken(t *testing.T) {
	if _, err := node.New(node.Config{Listen: "0.0.0.0:0"}); err == nil || !strings.Contains(err.Error(), "Listen: ") {
		t.Errorf("got %v", err)
	}
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := node.New(node.Config{Listener: ln}); err == nil || !strings.Contains(err.Error(), "Listen: ") {
		t.Errorf("with a listener: got %v", err)
	}
}
