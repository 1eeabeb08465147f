package server

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/hacache/hacache/proto/cachepb"
)

const (
	watchKey   = "cachenode-watch"
	watchNames = 1024 // names a stream may watch
)

// watch is what a stream asks to be told of, as cache.proto describes it at Change.
type watch struct {
	leader bool
	caches bool     // those of names, all if there are none
	names  []string // not checked but for their encoding
}

// parseWatch reads the values of a stream's metadata.
func parseWatch(values []string) (w watch, err error) {
	all := false
	for _, value := range values {
		for word := range strings.SplitSeq(value, ",") {
			switch word = strings.TrimSpace(word); word {
			case "1", "leader":
				w.leader = true
			case "*":
				w.caches, all = true, true
			default:
				name, err := url.PathUnescape(word)
				if err != nil || name == "" {
					return watch{}, &Error{cachepb.Code_INVALID, fmt.Sprintf(
						"metadata %s: %q; expected leader, * or names of caches, percent-encoded, with commas", watchKey, value)}
				}
				w.caches, w.names = true, append(w.names, name)
			}
		}
	}
	if len(w.names) > watchNames {
		return watch{}, &Error{cachepb.Code_TOO_LARGE, fmt.Sprintf("metadata %s: %d names, expected at most %d or *", watchKey, len(w.names), watchNames)}
	}
	if all {
		w.names = nil
	}
	return w, nil
}
