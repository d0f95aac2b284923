# Everything that must hold before a change goes in; exactly what a build machine runs.
check:
    .ci/run

test:
    cargo test --workspace

fmt:
    cargo fmt --all

demo:
    cargo run --release -- demo
