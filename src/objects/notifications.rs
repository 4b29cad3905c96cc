//! Notifications of a real S3 in a queue of SQS. Hints only: what they say is checked by whoever asks for the object.

use super::{ObjectError, ObjectsOptions, credentials};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Region};
use aws_sdk_sqs::types::MessageSystemAttributeName;
use std::time::Duration;

/// How long a receive waits for the first message: SQS' longest.
const WAIT: Duration = Duration::from_secs(20);
/// Of one receive: SQS' most.
const BATCH: i32 = 10;
/// A message that nobody deletes comes back after so long: longer than ten objects take, retries included.
const HIDDEN: Duration = Duration::from_mins(2);

/// A message.
#[derive(Clone)]
pub struct Notification {
    /// As it was sent.
    pub body: String,
    /// How often it was received, this time included.
    pub received: u32,
    receipt: String,
}

/// A queue of SQS, or of a server that speaks as it does.
#[derive(Clone)]
pub struct NotificationQueue {
    client: Client,
    url: String,
}

impl NotificationQueue {
    /// A client of the queue at this URL, with region and credentials of the object storage; nothing is sent yet. None
    /// if that is no URL of a queue.
    #[must_use]
    pub fn connect(url: &str, options: &ObjectsOptions) -> Option<Self> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(options.timeout.min(Duration::from_secs(3)))
            .operation_attempt_timeout(options.timeout + WAIT)
            .build();
        let mut config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(options.region.clone()))
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            // The queue's own host: of AWS, of an endpoint inside a VPC, or of another server.
            .endpoint_url(endpoint_of(url)?);
        if let Some(credentials) = credentials(options) {
            config = config.credentials_provider(credentials);
        }
        Some(Self { client: Client::from_conf(config.build()), url: url.to_owned() })
    }

    /// At most ten messages; none if there was none for twenty seconds. Each is hidden from others for a while.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn receive(&self) -> Result<Vec<Notification>, ObjectError> {
        let answer = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(BATCH)
            .wait_time_seconds(seconds(WAIT))
            .visibility_timeout(seconds(HIDDEN))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .send()
            .await?;
        let messages = answer.messages.unwrap_or_default().into_iter().filter_map(|message| {
            let count = message.attributes.as_ref();
            let count = count.and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
            Some(Notification {
                received: count.and_then(|count| count.parse().ok()).unwrap_or(1),
                body: message.body?,
                receipt: message.receipt_handle?,
            })
        });
        Ok(messages.collect())
    }

    /// It is done with.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn delete(&self, notification: &Notification) -> Result<(), ObjectError> {
        self.client.delete_message().queue_url(&self.url).receipt_handle(&notification.receipt).send().await?;
        Ok(())
    }

    /// Show it again after that time. What comes back too often is the business of the queue's redrive policy.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn postpone(&self, notification: &Notification, by: Duration) -> Result<(), ObjectError> {
        let request = self.client.change_message_visibility().queue_url(&self.url);
        request.receipt_handle(&notification.receipt).visibility_timeout(seconds(by)).send().await?;
        Ok(())
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// `https://host:port` of `https://host:port/account/queue`.
fn endpoint_of(url: &str) -> Option<&str> {
    let scheme = ["https://", "http://"].into_iter().find(|scheme| url.starts_with(scheme))?;
    let path = url[scheme.len()..].find('/')? + scheme.len();
    (path > scheme.len() && url.len() > path + 1).then_some(&url[..path])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_asked_at_its_own_host() {
        let aws = "https://sqs.eu-central-1.amazonaws.com/123456789012/incoming";
        assert_eq!(endpoint_of(aws), Some("https://sqs.eu-central-1.amazonaws.com"));
        assert_eq!(endpoint_of("http://127.0.0.1:5000/1/q"), Some("http://127.0.0.1:5000"));
        for bad in ["", "incoming", "https://", "https://host", "https://host/", "https:///q", "ftp://host/q"] {
            assert_eq!(endpoint_of(bad), None, "{bad}");
        }
    }
}
