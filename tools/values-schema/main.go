// Command values-schema prints the JSON schema of a chart's values, made from the
// values file itself: types from the defaults, descriptions from the comments that
// begin with "--", and what a line "# @schema {...}" above them adds.
//
//	values-schema charts/future/values.yaml
//
// An unknown key is an error everywhere but where "additionalProperties" says
// otherwise. In "items", "$values": "NAME" stands for the keys of the values' NAME.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"gopkg.in/yaml.v3"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "values-schema:", err)
		os.Exit(1)
	}
}

// schema is one JSON schema; encoding/json sorts its keys.
type schema map[string]any

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("give one values file, not %d", len(args))
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("%s: want a mapping", args[0])
	}
	root, err := object(document.Content[0])
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	properties := root["properties"].(map[string]schema)
	for _, property := range properties {
		expand(property, properties)
	}
	// Helm itself passes this one.
	properties["global"] = schema{"type": "object"}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(root)
}

// expand replaces "$values" in property's items.
func expand(property schema, values map[string]schema) {
	items, _ := property["items"].(map[string]any)
	name, _ := items["$values"].(string)
	if name == "" {
		return
	}
	delete(items, "$values")
	all := maps.Clone(values[name]["properties"].(map[string]schema))
	for key, own := range items["properties"].(map[string]any) {
		all[key] = own.(map[string]any)
	}
	items["properties"], items["additionalProperties"] = all, false
}

func object(node *yaml.Node) (schema, error) {
	properties := map[string]schema{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		property, err := of(key, value)
		if err != nil {
			return nil, fmt.Errorf("line %d, %s: %w", key.Line, key.Value, err)
		}
		properties[key.Value] = property
	}
	return schema{"type": "object", "properties": properties, "additionalProperties": false}, nil
}

// of is the schema of one key: from its default, then from its comment.
func of(key, value *yaml.Node) (schema, error) {
	added, description, err := comment(key.HeadComment)
	if err != nil {
		return nil, err
	}
	if value.Kind == yaml.MappingNode && len(value.Content) > 0 && added["additionalProperties"] == nil {
		return object(value)
	}
	if description == "" {
		return nil, fmt.Errorf("no description: write a comment that begins with '# -- '")
	}
	property := schema{"type": types[value.ShortTag()], "description": description}
	maps.Copy(property, added)
	return property, nil
}

// types are JSON schema's names of YAML's types.
var types = map[string]string{
	"!!str": "string", "!!int": "integer", "!!float": "number", "!!bool": "boolean", "!!null": "null",
	"!!map": "object", "!!seq": "array",
}

// comment takes a key's comment apart.
func comment(text string) (added schema, description string, err error) {
	described := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if spec, found := strings.CutPrefix(line, "@schema "); found {
			if err := json.Unmarshal([]byte(spec), &added); err != nil {
				return nil, "", fmt.Errorf("@schema: %w", err)
			}
			continue
		}
		if first, found := strings.CutPrefix(line, "-- "); found {
			description, described = first, true
		} else if described && line != "" {
			description += " " + line
		}
	}
	return added, description, nil
}
