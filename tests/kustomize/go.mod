// kustomize, which renders packaging/kubernetes as `kubectl apply -k` does. 5.8.3 wants Go 1.27.
module acceptd.test/kustomize

go 1.26.0

require sigs.k8s.io/kustomize/kustomize/v5 v5.8.2
