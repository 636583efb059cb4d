# The image of the action (action.yml): `netpol` without the agent, so neither LLVM nor a kernel is needed.
FROM rust:1.95-bookworm AS build
WORKDIR /netpol
COPY . .
# Each run of the action builds the image, and link-time optimisation takes longer than all that `netpol` then does.
ENV CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
RUN cargo build --release --locked --package netpol-cli --bin kubectl-netpol

FROM debian:bookworm-slim
COPY --from=build /netpol/target/release/kubectl-netpol /usr/local/bin/netpol
COPY deploy/action/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
