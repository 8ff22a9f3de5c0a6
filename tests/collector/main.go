// The OpenTelemetry Collector that acceptd's tests send to: the real service, receivers and exporters, with only the components that
// the configurations of ../../otel-config name. It is built in three ways, see ../../xtask/src/collector.rs: for one machine, in half
// the time; with -tags contrib for many machines, too; with -tags elastic and elastic.mod the one with Elasticsearch's exporter, pinned
// at the version whose settings elastic.yaml has.
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
