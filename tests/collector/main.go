// The OpenTelemetry Collector that acceptd's tests send to: the real service with only the components that
// the configurations in ../../otel-config name. tests/suites/src/collector.rs builds it in three variants:
// without tags, for single-host configurations, in half the time; with -tags contrib, for multi-host
// configurations as well; and with -tags elastic and elastic.mod, with Elasticsearch's exporter, pinned at
// the version that elastic.yaml is written for.
package main

import (
	"log"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/otelcol"
)

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{
			Command:     "otelcol-acceptd",
			Description: "OpenTelemetry Collector for acceptd's tests",
			Version:     version,
		},
		Factories: components,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				ProviderFactories: []confmap.ProviderFactory{
					envprovider.NewFactory(),
					fileprovider.NewFactory(),
					yamlprovider.NewFactory(),
				},
			},
		},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatalf("otelcol-acceptd: %v", err)
	}
}
