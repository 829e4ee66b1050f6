//! What can be typed about what nodes keep aside of volumes. Help texts are in here.

use flocker_api::{
    aside::AsideKey,
    name::{NodeName, VolumeName},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl volume resolve notes
  flockerctl volume resolve notes --node n1 --keep notes-before-the-failover
  flockerctl volume resolve notes --node n1 --discard

When a node comes back whose last writes had reached no other one, they are kept aside and the node
becomes a replica by itself; so are writes that somebody makes to a replica. Without --discard,
--keep or --set-aside this shows what there is: bytes and changed paths, since when, of which epoch.
Whatever is decided is shown before and asked for; --yes answers.

Exit status: 0 done or nothing to decide, 1 not done, 2 wrong arguments.")]
pub(crate) struct VolumeResolve {
    /// The volume
    #[arg(value_name = "VOLUME")]
    pub(crate) name: VolumeName,
    /// Only what this node keeps
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
    /// Which of several, as the preview names them
    #[arg(long, value_name = "KEY")]
    pub(crate) aside: Option<AsideKey>,
    /// Destroy it for good
    #[arg(long, group = "decision")]
    pub(crate) discard: bool,
    /// Make it a volume of its own, of this name, mounted on the node where it is
    #[arg(long, value_name = "NAME", group = "decision")]
    pub(crate) keep: Option<VolumeName>,
    /// Put the replica on --node aside as a whole, and have it sent anew: where it has no snapshot
    /// in common with its primary
    #[arg(long, group = "decision", requires = "node", conflicts_with = "aside")]
    pub(crate) set_aside: bool,
    /// Tell at most so many changed paths
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) paths: usize,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}
