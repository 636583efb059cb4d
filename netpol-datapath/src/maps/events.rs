//! Records of the event ring, and log messages of the programs if tracing is on.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::Log;
use netpol_common::event::Event;
use netpol_common::maps::EVENTS;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use crate::datapath::Datapath;
use crate::error::Error;
use crate::object::LOG_MAP;
use crate::tables::wire::watch;

/// The stream of records of drops and would-be drops.
pub struct Events {
    ring: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
}

impl Events {
    /// Waits for the next record. Cancelling the future loses no record.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut ready = self.ready.readable().await?;
            while let Some(record) = self.ring.next() {
                if let Ok(event) = Event::read_from_bytes(&record) {
                    return Ok(event);
                }
            }
            ready.clear_ready();
        }
    }
}

/// The stream of log messages of the programs; empty unless tracing is on.
pub struct TraceMessages {
    logger: EbpfLogger<&'static dyn Log>,
    ready: AsyncFd<OwnedFd>,
}

impl TraceMessages {
    /// Forwards messages to the `log` crate until an error occurs.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn forward(mut self) -> io::Result<std::convert::Infallible> {
        loop {
            let mut ready = self.ready.readable().await?;
            self.logger.flush();
            ready.clear_ready();
        }
    }
}

impl Datapath {
    /// The stream of records. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Taken`] from the second call on, [`Error::Map`].
    pub fn events(&mut self) -> Result<Events, Error> {
        let ring = self.ebpf.take_map(EVENTS).ok_or(Error::Taken { what: "events" })?;
        let cannot_read = |source| Error::Map { map: EVENTS, action: "read", source };
        let ring: RingBuf<MapData> = ring.try_into().map_err(cannot_read)?;
        let ready = watch(ring.as_fd()).map_err(|error| cannot_read(error.into()))?;
        Ok(Events { ring, ready })
    }

    /// The stream of log messages. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Taken`] from the second call on, [`Error::Map`].
    pub fn trace_messages(&mut self) -> Result<TraceMessages, Error> {
        let logger = EbpfLogger::init(&mut self.ebpf)
            .map_err(|_missing| Error::Taken { what: "log messages" })?;
        let cannot_read = |source| Error::Map { map: LOG_MAP, action: "read", source };
        let ready = watch(logger.as_fd()).map_err(|error| cannot_read(error.into()))?;
        Ok(TraceMessages { logger, ready })
    }
}
