package scenario

import (
	"encoding/json"
	"reflect"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"
)

// Schema returns the JSON schema of scenario files, for editors. It accepts
// every valid file; [Parse] checks more than a schema can say.
func Schema() ([]byte, error) {
	text := func(pattern, about string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern, Description: about}
	}
	number := func(pattern, about string) *jsonschema.Schema {
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "integer"}, text(pattern, about)}}
	}
	weights := func(names []string) *jsonschema.Schema {
		props := map[string]*jsonschema.Schema{}
		for _, n := range names {
			props[n] = &jsonschema.Schema{Type: "integer", Minimum: new(1.0)}
		}
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{
			{Type: "string", Enum: anys(names)},
			{Type: "object", Properties: props, AdditionalProperties: never(), MinProperties: new(1)},
		}}
	}
	rate := text(`^[0-9.]+[kM]?/[sm]$`, "operations per second or minute: 5000/s, 20k/s, 300/m")
	one := func(name string, s *jsonschema.Schema) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{name: s}, Required: []string{name}, AdditionalProperties: never()}
	}
	limit := text(`^(p\([0-9.]+\)|max|rate|count|rss|growth) *<=? *[0-9.]+[a-zA-Zµ%]*$`, "p(99) < 20ms, p(99) <= 2x (of what it was before the faults), max < 600ms, rate < 1%, count <= 1, rss <= 512MiB, rss <= 1x (of what the bounds of the node add up to)")
	span := text(`^([0-9.]+(ns|us|µs|ms|s|m|h))+$|^0$`, "a duration: 200ms, 1.5s, 2m")
	s, err := jsonschema.For[Scenario](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[Duration](): span,
		reflect.TypeFor[Rate]():     rate,
		reflect.TypeFor[Count]():    number(`^[0-9.]+[kM]?$`, "a number: 64, 100k, 1M"),
		reflect.TypeFor[Size]():     number(`^[0-9]+(B|KiB|MiB|GiB)?$`, "a size: 128B, 4KiB, 256MiB"),
		reflect.TypeFor[Percent]():  text(`^[0-9.]+%$`, "a share: 5%, 0.1%"),
		reflect.TypeFor[Share]():    text(`^[0-9.]+%$`, "a part of a time: 30%, 99%"),
		reflect.TypeFor[Shift]():    text(`^[+-]?([0-9.]+(ns|us|µs|ms|s|m|h))+$`, "a duration ahead or behind: 2m, -500ms"),
		reflect.TypeFor[Drift]():    text(`^[+-]?[0-9.]+%$`, "10%, -5%"),
		reflect.TypeFor[Op]():       weights(ops),
		reflect.TypeFor[Ack]():      weights(levels),
		reflect.TypeFor[Dist]():     text(`^(uniform|sequential|once|zipf\(0?\.[0-9]+\))$`, "uniform, sequential, once or zipf(THETA)"),
		reflect.TypeFor[Threshold](): {AnyOf: []*jsonschema.Schema{limit, {
			Type: "object", Required: []string{"expr"}, AdditionalProperties: never(),
			Properties: map[string]*jsonschema.Schema{
				"expr":  limit,
				"abort": {Type: "boolean", Description: "end the load as soon as it is not kept"},
				"after": span,
			},
		}}},
		reflect.TypeFor[Schedule](): {AnyOf: []*jsonschema.Schema{
			one("constant", rate), one("poisson", rate), one("closed", &jsonschema.Schema{Type: "integer", Minimum: new(1.0), Maximum: new(4096.0)}),
			one("stages", &jsonschema.Schema{Type: "array", MinItems: new(1), MaxItems: new(maxStages), Items: &jsonschema.Schema{
				Type: "object", Required: []string{"to", "over"}, AdditionalProperties: never(), Description: "the rate at its end, how long it lasts, how it gets there",
				Properties: map[string]*jsonschema.Schema{"to": rate, "over": span, "shape": {Type: "string", Enum: anys(shapes)}},
			}}),
			one("burst", &jsonschema.Schema{
				Type: "object", Required: []string{"high", "on", "low", "off"}, AdditionalProperties: never(), Description: "high for on, low for off, in turns",
				Properties: map[string]*jsonschema.Schema{"high": rate, "on": span, "low": rate, "off": span},
			}),
		}},
	}})
	if err != nil {
		return nil, err
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "hacache chaos scenario"
	fault := s.Properties["faults"].Items
	fault.Properties["action"].Enum = anys(sortedKeys(Actions))
	for field, names := range map[string][]string{
		"style": {"stall", "reject", "swallow"}, "direction": {"both", "in", "out"}, "clients": {"kept", "cut"},
		"spread": spreads, "point": Points, "on": Occasions,
	} {
		fault.Properties[field].Enum = anys(names)
	}
	s.Properties["nemesis"].Properties["actions"].Items.Enum = anys(sortedKeys(menaces))
	s.Properties["checks"].Properties["loss"].PropertyNames = &jsonschema.Schema{Enum: anys([]string{"once", "leader"})}
	s.Properties["probes"].Properties["levels"].Items.Enum = anys(levels)
	data, err := json.MarshalIndent(s, "", "  ")
	return append(data, '\n'), err
}

// never is the schema that nothing matches.
func never() *jsonschema.Schema { return &jsonschema.Schema{Not: &jsonschema.Schema{}} }

func anys(names []string) []any {
	var out []any
	for _, n := range slices.Sorted(slices.Values(names)) {
		out = append(out, n)
	}
	return out
}
