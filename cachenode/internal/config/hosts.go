package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Identity returns the host:port of an entry of HA_HOSTS, in lower case: the name by which nodes know each other.
func Identity(host string) string {
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	return strings.ToLower(strings.TrimSuffix(host, "/"))
}

// SortHosts sorts entries of HA_HOSTS into slot order.
func SortHosts(hosts []string) { slices.SortFunc(hosts, compareHosts) }

func compareHosts(a, b string) int { return cmp.Compare(Identity(a), Identity(b)) }

// splitList splits at commas and white space, in any mixture.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// checkHost tells what is wrong with one entry of HA_HOSTS.
func checkHost(h string) error {
	if strings.Contains(h, "://") {
		u, err := url.Parse(h)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("%q is not a host; expected http://host:port or https://host:port", h)
		}
	}
	if err := checkAddr(Identity(h), 1); err != nil {
		return fmt.Errorf("%q is not a host; expected scheme://host:port", h)
	}
	if name, _, _ := net.SplitHostPort(Identity(h)); name == "" {
		return fmt.Errorf("%q names no host; expected scheme://host:port", h)
	}
	return nil
}

// checkAddr tells what is wrong with a TCP address whose port is at least minPort.
func checkAddr(addr string, minPort int) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not an address; expected host:port", addr)
	}
	if p, err := strconv.Atoi(port); err != nil || p < minPort || p > 65535 {
		return fmt.Errorf("%q has no usable port; expected host:port with a port from %d to 65535", addr, minPort)
	}
	return nil
}

// IsLoopback reports whether a listener on addr can be reached from this machine only. Names other than localhost are
// not looked up: they count as reachable from elsewhere.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// findSelf returns the slot of the host which name denotes. An overwritten name must equal a whole host or host:port.
// The name of the machine may also be the first labels of a host ("cache-0" for cache-0.cache.svc:8443), but never a
// part of a label: cache-1 is not cache-10.
func findSelf(hosts []string, name string, overwritten bool) (int, error) {
	name = Identity(name)
	var found []int
	for i, h := range hosts {
		id := Identity(h)
		host, _, err := net.SplitHostPort(id)
		if err != nil {
			host = id // a host without a port is a mistake of its own, which Validate names
		}
		if name == id || name == host || !overwritten && strings.HasPrefix(host, name+".") {
			found = append(found, i)
		}
	}
	all := strings.Join(hosts, ", ")
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if overwritten {
			return 0, fmt.Errorf("%q is not in HA_HOSTS (%s); expected one of these hosts as host or host:port", name, all)
		}
		return 0, fmt.Errorf("the name of this machine, %q, is not in HA_HOSTS (%s); set HOSTNAME_OVERWRITE to one of these hosts as host or host:port", name, all)
	default:
		return 0, fmt.Errorf("%q is %d of the hosts in HA_HOSTS (%s); set HOSTNAME_OVERWRITE to host:port", name, len(found), all)
	}
}

// defaultListen is the address of a member of a cluster which was told none.
func defaultListen(self string, loopbackOnly bool) string {
	id := Identity(self)
	host, port, err := net.SplitHostPort(id)
	switch {
	case err != nil:
		return Default().Listen // Validate names the mistake in the host
	case IsLoopback(id) && !strings.EqualFold(host, "localhost"):
		return id
	case loopbackOnly || IsLoopback(id):
		return net.JoinHostPort("127.0.0.1", port)
	default:
		return net.JoinHostPort("", port)
	}
}
