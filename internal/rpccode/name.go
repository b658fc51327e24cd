// Package rpccode names the status codes of gRPC.
package rpccode

import "strconv"

var names = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// Name returns the canonical name of a code, "UNAVAILABLE", as in
// https://github.com/grpc/grpc/blob/master/doc/statuscodes.md. A code that gRPC does not define has a name such as
// "CODE(17)", as in grpc's OpenTelemetry plugin. Only such a name allocates.
func Name(code uint32) string {
	if code < uint32(len(names)) {
		return names[code]
	}
	return "CODE(" + strconv.FormatUint(uint64(code), 10) + ")"
}
