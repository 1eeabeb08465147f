// Package proto_test holds cache.proto to the contract it extends: testdata/seed.proto, as it was given. Whoever was
// built from the seed must be able to talk to us without noticing.
package proto_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hacache/hacache/proto/cachepb"
)

// seedSum is the SHA-256 of testdata/seed.proto. The seed never changes; if it did, everything below would follow it.
const seedSum = "6a1890121fa59493194489da63d3bc7538eb3f4e7c67e742332614778e762154"

// firstExtension is the first field number which is ours in a message of the seed.
const firstExtension = 16

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// compile returns the descriptor of a single proto file.
func compile(t *testing.T, source string) protoreflect.FileDescriptor {
	t.Helper()
	const name = "cache.proto"
	c := protocompile.Compiler{Resolver: &protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{name: source}),
	}}
	files, err := c.Compile(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return files[0]
}

// violations lists what of the seed ours does not keep, and what it adds where it must not.
func violations(seed, ours protoreflect.FileDescriptor) []string {
	var v []string
	if seed.Package() != ours.Package() {
		v = append(v, fmt.Sprintf("package is %s, was %s", ours.Package(), seed.Package()))
	}
	v = append(v, messageViolations(seed.Messages(), ours.Messages())...)
	v = append(v, enumViolations(seed.Enums(), ours.Enums())...)
	for i := range seed.Services().Len() {
		s := seed.Services().Get(i)
		o := ours.Services().ByName(s.Name())
		for j := range s.Methods().Len() {
			v = append(v, methodViolations(s.Methods().Get(j), o)...)
		}
	}
	return v
}

func messageViolations(seed, ours protoreflect.MessageDescriptors) (v []string) {
	for i := range seed.Len() {
		s := seed.Get(i)
		o := ours.ByName(s.Name())
		if o == nil {
			v = append(v, fmt.Sprintf("message %s is gone", s.FullName()))
			continue
		}
		for j := range s.Fields().Len() {
			v = append(v, fieldViolations(s.Fields().Get(j), o)...)
		}
		for j := range o.Fields().Len() {
			if f := o.Fields().Get(j); s.Fields().ByNumber(f.Number()) == nil && f.Number() < firstExtension {
				v = append(v, fmt.Sprintf("field %s is new with number %d, want at least %d", f.FullName(), f.Number(), firstExtension))
			}
		}
		v = append(v, messageViolations(s.Messages(), o.Messages())...)
		v = append(v, enumViolations(s.Enums(), o.Enums())...)
	}
	return v
}

func fieldViolations(s protoreflect.FieldDescriptor, message protoreflect.MessageDescriptor) []string {
	o := message.Fields().ByNumber(s.Number())
	if o == nil {
		return []string{fmt.Sprintf("field %s = %d is gone", s.FullName(), s.Number())}
	}
	if was, is := fieldShape(s), fieldShape(o); was != is {
		return []string{fmt.Sprintf("field %s = %d is %q, was %q", s.FullName(), s.Number(), is, was)}
	}
	return nil
}

// fieldShape is everything about a field that the wire or generated code depends on, beside its number.
func fieldShape(f protoreflect.FieldDescriptor) string {
	label := f.Cardinality().String()
	if f.HasOptionalKeyword() {
		label = "explicitly optional"
	}
	kind := f.Kind().String()
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		kind = string(f.Message().FullName())
	case protoreflect.EnumKind:
		kind = string(f.Enum().FullName())
	}
	oneof := "no oneof"
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		oneof = "oneof " + string(o.Name())
	}
	return fmt.Sprintf("%s %s %s, %s, json %s, packed %v", label, kind, f.Name(), oneof, f.JSONName(), f.IsPacked())
}

func enumViolations(seed, ours protoreflect.EnumDescriptors) (v []string) {
	for i := range seed.Len() {
		s := seed.Get(i)
		o := ours.ByName(s.Name())
		if o == nil {
			v = append(v, fmt.Sprintf("enum %s is gone", s.FullName()))
			continue
		}
		for j := range s.Values().Len() {
			was := s.Values().Get(j)
			if is := o.Values().ByNumber(was.Number()); is == nil || is.Name() != was.Name() {
				v = append(v, fmt.Sprintf("enum value %s = %d is gone or renamed", was.FullName(), was.Number()))
			}
		}
	}
	return v
}

func methodViolations(s protoreflect.MethodDescriptor, service protoreflect.ServiceDescriptor) []string {
	if service == nil || service.Methods().ByName(s.Name()) == nil {
		return []string{fmt.Sprintf("method %s is gone", s.FullName())}
	}
	if was, is := methodShape(s), methodShape(service.Methods().ByName(s.Name())); was != is {
		return []string{fmt.Sprintf("method is %q, was %q", is, was)}
	}
	return nil
}

func methodShape(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s(%s, streams %v) returns (%s, streams %v)", m.Parent().FullName(), m.Name(),
		m.Input().FullName(), m.IsStreamingClient(), m.Output().FullName(), m.IsStreamingServer())
}

// comments returns the comment lines of a proto file in order.
func comments(source string) (lines []string) {
	for line := range strings.Lines(source) {
		if _, comment, ok := strings.Cut(line, "//"); ok {
			lines = append(lines, strings.TrimSpace(comment))
		}
	}
	return lines
}

// missing returns the elements of want that are not in have, where have is to contain want in order.
func missing(want, have []string) (m []string) {
	for _, w := range want {
		if i := slices.Index(have, w); i >= 0 {
			have = have[i+1:]
		} else {
			m = append(m, w)
		}
	}
	return m
}

// The generated code, which is what speaks on the wire, keeps every message, field, type, label, oneof and method of
// the seed, and cache.proto every comment.
func TestSeedIsKept(t *testing.T) {
	seed := read(t, "testdata/seed.proto")
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(seed))); got != seedSum {
		t.Fatalf("testdata/seed.proto has SHA-256 %s, want %s", got, seedSum)
	}
	for _, v := range violations(compile(t, seed), cachepb.File_cache_proto) {
		t.Error(v)
	}
	for _, line := range missing(comments(seed), comments(read(t, "cache.proto"))) {
		t.Errorf("comment is gone or out of order: %s", line)
	}
	if got, want := methodShape(cachepb.File_cache_proto.Services().Get(0).Methods().Get(0)),
		"/cache.Cache/StreamValues(cache.CacheRequest, streams true) returns (cache.Ack, streams true)"; got != want {
		t.Errorf("the method is %s, want %s", got, want)
	}
}

// The committed code is generated from the committed cache.proto.
func TestGeneratedFromSource(t *testing.T) {
	source := protodesc.ToFileDescriptorProto(compile(t, read(t, "cache.proto")))
	generated := protodesc.ToFileDescriptorProto(cachepb.File_cache_proto)
	if !proto.Equal(source, generated) {
		t.Error("proto/cachepb is not what cache.proto generates; run make generate")
	}
}

// Each way to break the contract is noticed, and each way to extend it is not. The seed itself is changed here, in the
// role of ours.
func TestContractBites(t *testing.T) {
	source := read(t, "testdata/seed.proto")
	seed := compile(t, source)
	for _, tc := range []struct {
		name     string
		old, new string
		want     string // part of a violation; empty if allowed
	}{
		{"unchanged", "", "", ""},
		{"field renamed", "int64 election_ts = 2;", "int64 elected_ts = 2;", "elected_ts"},
		{"field renumbered", "string error = 1;", "string error = 2;", "cache.Error.error = 1 is gone"},
		{"field of another type", "int64 election_ts = 2;", "uint64 election_ts = 2;", "uint64 election_ts"},
		{"field of another message", "Put put = 2;", "Insert put = 2;", "cache.Insert put"},
		{"field removed", "bool has_quorum = 3;", "", "has_quorum = 3 is gone"},
		{"label added", "string error = 1;", "repeated string error = 1;", "repeated string error"},
		{"label removed", "optional bytes value = 3;", "bytes value = 3;", "optional bytes value"},
		{"field taken out of a oneof", "    Error error = 5;\n  }", "  }\n  Error error = 5;", "no oneof"},
		{"oneof renamed", "oneof ack_level", "oneof level", "oneof level"},
		{"message renamed", "message Health {", "message HealthReq {} message Health2 {", "message cache.Health is gone"},
		{"low number added", "message Empty {}", "message Empty { int32 x = 15; }", "number 15"},
		{"extension", "message Empty {}", "message Empty { int32 x = 16; }", ""},
		{"extension of a oneof", "    Error error = 5;\n", "    Error error = 5;\n    Empty more = 16;\n", ""},
		{"new message", "message Empty {}", "message Empty {} message New { int32 x = 1; }", ""},
		{"package renamed", "package cache;", "package cache2;", "package"},
		{"service renamed", "service Cache {", "service Caches {", "cache.Cache.StreamValues is gone"},
		{"method renamed", "rpc StreamValues(", "rpc Stream(", "StreamValues is gone"},
		{"no longer a stream", "returns (stream Ack)", "returns (Ack)", "streams false"},
		{"another answer", "returns (stream Ack)", "returns (stream Error)", "cache.Error, streams true"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changed := source
			if tc.old != "" {
				changed = strings.Replace(source, tc.old, tc.new, 1)
				if changed == source {
					t.Fatalf("%q is not in the seed", tc.old)
				}
			}
			if tc.name == "message renamed" {
				changed = strings.Replace(changed, "Health health = 2;", "HealthReq health = 2;", 1)
			}
			got := strings.Join(violations(seed, compile(t, changed)), "\n")
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("violations %q, want %q", got, tc.want)
			}
		})
	}
	lines := comments(source)
	if len(lines) < 10 {
		t.Fatalf("only %d comment lines found in the seed", len(lines))
	}
	for i := range lines {
		if m := missing(lines, slices.Delete(slices.Clone(lines), i, i+1)); len(m) == 0 {
			t.Errorf("comment %q was removed unnoticed", lines[i])
		}
	}
	if m := missing(lines, append(slices.Clone(lines[1:]), lines[0])); len(m) == 0 {
		t.Error("a comment out of order went unnoticed")
	}
}
