//! The maps and programs of another version, which are replaced while they enforce.

use super::attach::{Role, detach};
use super::error::Error;
use super::{Datapath, Program};

impl Datapath {
    /// Whether the programs and maps of another version are there, and may be in force.
    pub fn has_predecessor(&self) -> bool {
        self.pins.as_ref().is_some_and(|pins| !pins.predecessors().is_empty())
    }

    /// Puts our programs in the place of those of other versions that are left, and removes their maps. The maps of this
    /// version must be complete: what is not an endpoint in them is closed from now on.
    ///
    /// # Errors
    /// Those of [`Datapath::attach`] and [`Datapath::detach`]; what is done by then is done.
    pub fn retire_predecessor(&mut self) -> Result<(), Error> {
        let pins = self.pins.clone().ok_or(Error::NotPinned)?;
        for predecessor in pins.predecessors() {
            for (ifindex, program) in predecessor.attachments()? {
                let role = Role::of(program);
                let is_pod = pins.link(ifindex, Program::PodIngress).exists();
                if role == Role::Pod || !is_pod {
                    match self.attach(ifindex, role) {
                        Ok(()) | Err(Error::NoDevice { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                detach(predecessor, ifindex, program)?;
            }
            predecessor.remove()?;
        }
        if let Some(pins) = &mut self.pins {
            pins.forget_predecessors();
        }
        // Its endpoints that went while nobody was there, and those that it had no time for.
        self.collect_unknown().map(drop)
    }
}
