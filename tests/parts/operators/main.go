// What an operator's own tools would make of `deploy/`, as JSON: the same packages that kubectl, Helm and containerd are
// built around, without the tools themselves, which take minutes to build.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const usage = `usage:
  operators kustomize DIRECTORY        what kubectl apply -k would send, as YAML
  operators chart DIRECTORY [VALUES]   what helm install would send, as YAML; values as a JSON object
  operators seccomp [CAPABILITY...]    the filter that containerd means by RuntimeDefault, as JSON`

func main() {
	text, err := answer(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(text)
}

func answer(words []string) (string, error) {
	switch {
	case len(words) == 2 && words[0] == "kustomize":
		return kustomize(words[1])
	case len(words) == 2 && words[0] == "chart":
		return chart(words[1], "{}")
	case len(words) == 3 && words[0] == "chart":
		return chart(words[1], words[2])
	case len(words) >= 1 && words[0] == "seccomp":
		return filter(words[1:])
	}
	return "", fmt.Errorf("%s", usage)
}

func kustomize(directory string) (string, error) {
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		return "", err
	}
	text, err := objects.AsYaml()
	return string(text), err
}

// chart renders as `helm install sluice DIRECTORY --namespace kube-system` does, checking values against their schema.
func chart(directory, given string) (string, error) {
	values := map[string]any{}
	if err := json.Unmarshal([]byte(given), &values); err != nil {
		return "", err
	}
	loaded, err := loader.Load(directory)
	if err != nil {
		return "", err
	}
	release := chartutil.ReleaseOptions{Name: "sluice", Namespace: "kube-system", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(loaded, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{}.Render(loaded, all)
	if err != nil {
		return "", err
	}
	return strings.Join(manifests(files), "\n---\n"), nil
}

// manifests leaves out helpers and the notes for people, as Helm does.
func manifests(files map[string]string) []string {
	var found []string
	for name, text := range files {
		file := path.Base(name)
		if !strings.HasPrefix(file, "_") && file != "NOTES.txt" && strings.TrimSpace(text) != "" {
			found = append(found, text)
		}
	}
	slices.Sort(found)
	return found
}

// filter asks containerd for the filter of a container that has these capabilities.
func filter(capabilities []string) (string, error) {
	sets := &specs.LinuxCapabilities{Bounding: capabilities}
	spec := &specs.Spec{Process: &specs.Process{Capabilities: sets}, Linux: &specs.Linux{}}
	text, err := json.Marshal(seccomp.DefaultProfile(spec))
	return string(text), err
}
