// Jaeger 2.13, whose module has the number 1.76. Without its web page, which is not part of the module.
module acceptd.test/jaeger

go 1.26.0

require github.com/jaegertracing/jaeger v1.76.0
