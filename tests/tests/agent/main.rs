//! The agent's watches against a fake API server: whatever the server does, the store converges to the server's objects, and
//! unreadable objects are reported.
#![forbid(unsafe_code)]

mod access;
mod backends;
mod cluster_policies;
mod events;
mod faults;
mod lists;
mod objects;
mod paths;
mod policy_status;
mod privileged;
mod published;
mod silence;
mod taint;
mod unable;
