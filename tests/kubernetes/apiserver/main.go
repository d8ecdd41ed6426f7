// Command apiserver is a kube-apiserver and an etcd in one binary, for tests that need the real ones:
//
//	apiserver kube-apiserver --etcd-servers=…
//	apiserver etcd --data-dir=…
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	kubeapiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: apiserver kube-apiserver|etcd [FLAG…]")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "etcd":
		etcdmain.Main(os.Args[1:])
	case "kube-apiserver":
		os.Args = os.Args[1:]
		os.Exit(cli.Run(kubeapiserver.NewAPIServerCommand()))
	default:
		fmt.Fprintf(os.Stderr, "apiserver: %q is neither kube-apiserver nor etcd\n", os.Args[1])
		os.Exit(2)
	}
}
