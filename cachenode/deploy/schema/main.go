// Command schema holds manifests against the code of who reads them, so that a field with a typo or a value that would be
// refused is found without a cluster or an engine.
//
//	schema kubernetes <FILE     the output of kustomize, by the validation of an API server
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
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
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

// kubernetes decodes each document as an API server does, with its defaults, and validates it as that does before anything
// is stored. What comes after that, such as a name that is taken, takes a cluster to be seen.
func kubernetes(in io.Reader) error {
	docs := yaml.NewYAMLReader(bufio.NewReader(in))
	decoder := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDecoder()
	var errs []error
	for n := 0; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) && n > 0 {
			return errors.Join(errs...)
		} else if err != nil {
			return err
		}
		object, kind, err := decoder.Decode(doc, nil, nil)
		if err == nil {
			err = validate(object).ToAggregate()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("document %d, %v: %w", n+1, kind, err))
		}
	}
}

// validate says what an API server would refuse of the kinds that the manifests may hold. The namespace is that of kubectl.
func validate(object runtime.Object) field.ErrorList {
	if meta, err := apimeta.Accessor(object); err == nil && meta.GetNamespace() == "" {
		meta.SetNamespace("default")
	}
	switch o := object.(type) {
	case *apps.StatefulSet:
		return appsvalidation.ValidateStatefulSet(o, appsvalidation.StatefulSetValidationOptions{}, corevalidation.PodValidationOptions{})
	case *core.Service:
		if o.Spec.ClusterIP != "" {
			o.Spec.ClusterIPs = []string{o.Spec.ClusterIP} // as the server does for old clients
		}
		return corevalidation.ValidateServiceCreate(o)
	case *core.Secret:
		return corevalidation.ValidateSecret(o)
	case *policy.PodDisruptionBudget:
		return policyvalidation.ValidatePodDisruptionBudget(o, policyvalidation.PodDisruptionBudgetValidationOptions{})
	case *networking.NetworkPolicy:
		return networkingvalidation.ValidateNetworkPolicy(o, networkingvalidation.NetworkPolicyValidationOptions{})
	}
	return field.ErrorList{field.InternalError(nil, fmt.Errorf("%T is not a kind that is known here", object))}
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
