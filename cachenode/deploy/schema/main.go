// Command schema holds manifests against the types of who reads them, so that a field with a typo or in the wrong place
// is found without a cluster or an engine: unknown fields are errors, as they are not for kubectl kustomize.
//
//	schema kubernetes <FILE     the output of kustomize
//	schema compose FILE
//	schema dockerfile FILE      the rules of docker build --check
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/opencontainers/go-digest"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	err := fmt.Errorf("expected kubernetes <FILE, compose FILE, or dockerfile FILE")
	switch {
	case len(os.Args) == 2 && os.Args[1] == "kubernetes":
		err = kubernetes(os.Stdin)
	case len(os.Args) == 3 && os.Args[1] == "compose":
		err = compose(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "dockerfile":
		err = dockerfile(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

// kinds are what the manifests may hold.
var kinds = map[string]func() any{
	"apps/v1 StatefulSet":                func() any { return &apps.StatefulSet{} },
	"v1 Service":                         func() any { return &core.Service{} },
	"v1 Secret":                          func() any { return &core.Secret{} },
	"policy/v1 PodDisruptionBudget":      func() any { return &policy.PodDisruptionBudget{} },
	"networking.k8s.io/v1 NetworkPolicy": func() any { return &networking.NetworkPolicy{} },
}

func kubernetes(in io.Reader) error {
	docs := yaml.NewYAMLReader(bufio.NewReader(in))
	for n := 0; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) && n > 0 {
			return nil
		} else if err != nil {
			return err
		}
		var head struct{ APIVersion, Kind string }
		if err := strict.Unmarshal(doc, &head); err != nil {
			return err
		}
		name := head.APIVersion + " " + head.Kind
		blank, ok := kinds[name]
		if !ok {
			return fmt.Errorf("%s is not a kind that is known here", name)
		}
		if err := strict.UnmarshalStrict(doc, blank()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

func compose(path string) error {
	opts, err := cli.NewProjectOptions([]string{path}, cli.WithOsEnv)
	if err != nil {
		return err
	}
	_, err = opts.LoadProject(context.Background())
	return err
}

// dockerfile is docker build --check without an engine: BuildKit parses the file, plans the build of every stage, and says
// what it would warn of.
func dockerfile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	source := llb.NewSourceMap(nil, path, "Dockerfile", data)
	source.Definition = &llb.Definition{} // of where the file comes from, which is not asked
	found, err := dockerfile2llb.DockerfileLint(context.Background(), data, dockerfile2llb.ConvertOpt{MetaResolver: anyImage{}, SourceMap: source})
	if err != nil {
		return err
	}
	var errs []error
	if found.Error != nil {
		errs = append(errs, errors.New(found.Error.Message))
	}
	for _, w := range found.Warnings {
		line := int32(0)
		if ranges := w.Location.GetRanges(); len(ranges) > 0 {
			line = ranges[0].GetStart().GetLine()
		}
		errs = append(errs, fmt.Errorf("%s:%d: %s: %s", path, line, w.RuleName, w.Detail))
	}
	return errors.Join(errs...)
}

// anyImage knows every base image, and nothing of it.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config := []byte(`{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers"}}`)
	return ref, digest.FromBytes(config), config, nil
}
