// Command schema holds manifests against the types of who reads them, so that a field with a typo or in the wrong place
// is found without a cluster or an engine: unknown fields are errors, as they are not for kubectl kustomize.
//
//	schema kubernetes <FILE     the output of kustomize
//	schema compose FILE
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	err := fmt.Errorf("expected kubernetes <FILE, or compose FILE")
	switch {
	case len(os.Args) == 2 && os.Args[1] == "kubernetes":
		err = kubernetes(os.Stdin)
	case len(os.Args) == 3 && os.Args[1] == "compose":
		err = compose(os.Args[2])
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
