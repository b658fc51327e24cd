module github.com/grpcircuit/grpcircuit/internal/compare

go 1.26.0

replace github.com/grpcircuit/grpcircuit => ../..

require (
	github.com/failsafe-go/failsafe-go v0.9.8
	github.com/grpcircuit/grpcircuit v0.0.0
	github.com/sony/gobreaker/v2 v2.4.0
)

require github.com/bits-and-blooms/bitset v1.24.4 // indirect
