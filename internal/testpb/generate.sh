#!/bin/sh
# Writes testpb.pb.go and testpb_grpc.pb.go, the same bytes every time: the plugins come from
# tools/go.mod, protoc from PATH.
set -eu

# The generated header names protoc's version. Stopping here beats a puzzling diff in CI.
want='libprotoc 3.21.12'
have=$(protoc --version) || {
	echo "generate.sh: protoc not found; apt-get install protobuf-compiler" >&2
	exit 1
}
if [ "$have" != "$want" ]; then
	echo "generate.sh: protoc is '$have', want '$want' (Debian 12 and 13, Ubuntu 24.04)" >&2
	exit 1
fi

root=$(cd "$(dirname "$0")/../.." && pwd)
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT

GOWORK=off GOBIN=$bin go -C "$root/tools" install \
	google.golang.org/protobuf/cmd/protoc-gen-go \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc

# Run from the root: the path given to protoc becomes the file's name in the process-wide protobuf
# registry, where a bare testpb.proto could collide with a dependency's and panic at start.
cd "$root"
protoc --proto_path=. \
	--plugin=protoc-gen-go="$bin/protoc-gen-go" \
	--plugin=protoc-gen-go-grpc="$bin/protoc-gen-go-grpc" \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	internal/testpb/testpb.proto
