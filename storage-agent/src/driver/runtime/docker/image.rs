//! Images: whether they are there, fetching them where a registry answers, and what they say of
//! how a container is examined.

use std::time::Duration;

use bollard::{models::ImageInspect, query_parameters::CreateImageOptions};
use flocker_api::container::Probe;
use futures_util::StreamExt;

use super::{Docker, reason, status_code};
use crate::driver::runtime::RuntimeError;

/// How long a container may take by its image's own health check, where that says nothing.
const HEALTHY_LIMIT: Duration = Duration::from_secs(120);

impl Docker {
    pub(in crate::driver::runtime) async fn check_image(
        &self,
        image: &str,
    ) -> Result<(), RuntimeError> {
        match self.image(image).await? {
            Some(_) => Ok(()),
            None => Err(self.no_image(image, "pull, load or import it there".to_owned())),
        }
    }

    /// Pulls an image that is not there.
    pub(in crate::driver::runtime) async fn fetch_image(
        &self,
        image: &str,
        limit: Duration,
    ) -> Result<(), RuntimeError> {
        if self.image(image).await?.is_some() {
            return Ok(());
        }
        tracing::info!(image, "pulling");
        let pulled = match tokio::time::timeout(limit, self.pull(image)).await {
            Ok(pulled) => pulled,
            Err(_) => Err(format!("it was not pulled within {limit:?}")),
        };
        pulled.map_err(|why| {
            let remedy = format!("no registry gave it ({why}); load or import it there");
            self.no_image(image, remedy)
        })
    }

    async fn pull(&self, image: &str) -> Result<(), String> {
        let options = CreateImageOptions {
            from_image: Some(image.to_owned()),
            // Without a tag the engine would pull all there are.
            tag: tag(image).is_none().then(|| "latest".to_owned()),
            ..Default::default()
        };
        let client = self.client().await.map_err(|error| error.to_string())?;
        let mut steps = Box::pin(client.create_image(Some(options), None, None));
        while let Some(step) = steps.next().await {
            let step = step.map_err(reason)?;
            if let Some(error) = step.error_detail.and_then(|error| error.message) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The image's own health check, as a probe. The engine's looks at it come every half minute
    /// by default, which is long to wait for while requests are held; so the agent runs it itself.
    pub(in crate::driver::runtime) async fn image_probe(&self, image: &str) -> Option<Probe> {
        let health = self.image(image).await.ok()??.config?.healthcheck?;
        let command = match health.test?.split_first()? {
            (kind, rest) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
            (kind, [line]) if kind == "CMD-SHELL" => {
                ["/bin/sh", "-c", line].map(str::to_owned).to_vec()
            }
            _ => return None,
        };
        let nanoseconds = |value: Option<i64>| {
            Duration::from_nanos(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .unwrap_or(0),
            )
        };
        let retries = u32::try_from(health.retries.unwrap_or(0))
            .unwrap_or(0)
            .max(3);
        let limit = nanoseconds(health.start_period) + nanoseconds(health.interval) * retries;
        let limit = if limit.is_zero() {
            HEALTHY_LIMIT
        } else {
            limit
        };
        Some(Probe::Exec {
            command,
            timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn image(&self, image: &str) -> Result<Option<ImageInspect>, RuntimeError> {
        match self.client().await?.inspect_image(image).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(status_code(&error), Some(400 | 404)) => Ok(None),
            Err(error) => Err(self.unreachable(error)),
        }
    }

    fn no_image(&self, image: &str, remedy: String) -> RuntimeError {
        RuntimeError::NoImage {
            image: image.to_owned(),
            node: self.inner.config.node.clone(),
            remedy,
        }
    }
}

/// The tag or digest of an image's name.
fn tag(image: &str) -> Option<&str> {
    if let Some((_, digest)) = image.split_once('@') {
        return Some(digest);
    }
    image
        .rsplit_once(':')
        .map(|(_, tag)| tag)
        .filter(|tag| !tag.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_registry_is_no_tag() {
        assert_eq!(tag("localhost:5000/a/b"), None);
        assert_eq!(tag("localhost:5000/a/b:7"), Some("7"));
        assert_eq!(tag("postgres:15"), Some("15"));
        assert_eq!(tag("postgres@sha256:00"), Some("sha256:00"));
    }
}
