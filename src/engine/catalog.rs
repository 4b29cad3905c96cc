//! The workflows of this program: embedded files, overridden or extended by a directory of one's own, registered in
//! the database by name, version and digest.
//!
//! A job pins its version. Other versions than the loaded one are read back from the database when a job needs them,
//! so that an edit never changes a job in flight.

use super::definition::{Fault, KnownHandlers as _, WorkflowDefinition, parse};
use super::registry::Registry;
use crate::db::{Db, DbError, Scope};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, RwLock};

/// The files that ship inside the binary.
const EMBEDDED: &[(&str, &str)] = &[
    ("workflows/athena-event.toml", include_str!("../../workflows/athena-event.toml")),
    ("workflows/bulk-upload.toml", include_str!("../../workflows/bulk-upload.toml")),
    ("workflows/callback.toml", include_str!("../../workflows/callback.toml")),
    ("workflows/fhir-bundle.toml", include_str!("../../workflows/fhir-bundle.toml")),
];

/// Why the workflows could not be loaded or registered.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Faults in the files, all of them.
    #[error("{} fault(s) in the workflow files:\n{}", .0.len(), .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
    /// The directory could not be read.
    #[error("cannot read the workflow directory {path}")]
    Directory {
        /// The directory or file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The same name and version is registered with other content.
    #[error("workflow \"{name}\" version {version} is registered with other content: raise `version` in its file")]
    Changed {
        /// Workflow.
        name: String,
        /// Version.
        version: i32,
    },
    /// A job pins a version that is neither loaded nor registered.
    #[error("workflow \"{name}\" version {version} is not known")]
    Unknown {
        /// Workflow.
        name: String,
        /// Version.
        version: i32,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

type Pinned = RwLock<HashMap<(String, i32), Arc<WorkflowDefinition>>>;

/// All loaded workflows, and the pinned older versions seen so far.
#[derive(Clone)]
pub struct Catalog {
    registry: Registry,
    loaded: Arc<BTreeMap<String, Arc<WorkflowDefinition>>>,
    pinned: Arc<Pinned>,
}

/// Files as (name, text): the embedded ones, then those of the directory, which replace embedded ones of the same name.
///
/// # Errors
/// [`CatalogError::Directory`].
pub fn files(directory: Option<&Path>) -> Result<Vec<(String, String)>, CatalogError> {
    let mut files: Vec<(String, String)> =
        EMBEDDED.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let Some(directory) = directory else { return Ok(files) };
    let fail = |path: &Path| {
        let path = path.display().to_string();
        move |source| CatalogError::Directory { path, source }
    };
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .map_err(fail(directory))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(fail(&path))?;
        let base = |name: &str| name.rsplit('/').next().map(str::to_owned);
        let name = path.display().to_string();
        files.retain(|(other, _)| base(other) != base(&name));
        files.push((name, text));
    }
    Ok(files)
}

impl Catalog {
    /// Read and check all files.
    ///
    /// # Errors
    /// All faults of all files at once, or an unreadable directory.
    pub fn load(directory: Option<&Path>, registry: Registry) -> Result<Self, CatalogError> {
        Self::from_files(&files(directory)?, registry)
    }

    /// The same from texts.
    ///
    /// # Errors
    /// All faults of all files at once.
    pub fn from_files(files: &[(String, String)], registry: Registry) -> Result<Self, CatalogError> {
        let mut loaded = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, text) in files {
            match parse(name, text, &registry) {
                Ok(definition) => {
                    loaded.insert(definition.name.clone(), Arc::new(definition));
                }
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() {
            Ok(Self { registry, loaded: Arc::new(loaded), pinned: Arc::default() })
        } else {
            Err(CatalogError::Faults(faults))
        }
    }

    /// The handlers.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Handler names, for messages.
    #[must_use]
    pub fn handler_names(&self) -> Vec<&str> {
        self.registry.names()
    }

    /// The loaded (newest) version of every workflow.
    pub fn latest_all(&self) -> impl Iterator<Item = &Arc<WorkflowDefinition>> {
        self.loaded.values()
    }

    /// The loaded version of that workflow.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`], with version 0.
    pub fn latest(&self, name: &str) -> Result<Arc<WorkflowDefinition>, CatalogError> {
        self.loaded.get(name).cloned().ok_or_else(|| CatalogError::Unknown { name: name.to_owned(), version: 0 })
    }

    /// Write what is loaded into `workflow_definitions`, and refuse a changed file under an unchanged version.
    ///
    /// # Errors
    /// [`CatalogError::Changed`] or the database's.
    pub async fn register(&self, db: &Db) -> Result<(), CatalogError> {
        for definition in self.loaded.values() {
            let wanted = Arc::clone(definition);
            let digest: Vec<u8> = db
                .unit(Scope::Global, move |connection| {
                    Box::pin(async move {
                        sqlx::query(
                            "insert into workflow_definitions (name, version, digest, body)
                             values ($1, $2, $3, $4)
                             on conflict do nothing",
                        )
                        .bind(&wanted.name)
                        .bind(wanted.version)
                        .bind(&wanted.digest[..])
                        .bind(&wanted.body)
                        .execute(&mut *connection)
                        .await
                        .map_err(DbError::from)?;
                        sqlx::query_scalar("select digest from workflow_definitions where name = $1 and version = $2")
                            .bind(&wanted.name)
                            .bind(wanted.version)
                            .fetch_one(connection)
                            .await
                            .map_err(DbError::from)
                    })
                })
                .await?;
            if digest != definition.digest {
                return Err(CatalogError::Changed { name: definition.name.clone(), version: definition.version });
            }
        }
        Ok(())
    }

    /// The exact version that a job pins.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`], or [`CatalogError::Faults`] when an old version names a handler that is gone.
    pub async fn resolve(&self, db: &Db, name: &str, version: i32) -> Result<Arc<WorkflowDefinition>, CatalogError> {
        if let Some(definition) = self.loaded.get(name).filter(|definition| definition.version == version) {
            return Ok(Arc::clone(definition));
        }
        let key = (name.to_owned(), version);
        if let Some(definition) = self.pinned.read().ok().and_then(|pinned| pinned.get(&key).cloned()) {
            return Ok(definition);
        }
        let wanted = key.clone();
        let body: Option<String> = db
            .unit(Scope::Global, move |connection| {
                Box::pin(async move {
                    sqlx::query_scalar("select body from workflow_definitions where name = $1 and version = $2")
                        .bind(&wanted.0)
                        .bind(wanted.1)
                        .fetch_optional(connection)
                        .await
                        .map_err(DbError::from)
                })
            })
            .await?;
        let body = body.ok_or_else(|| CatalogError::Unknown { name: name.to_owned(), version })?;
        let definition = parse(&format!("{name}.toml"), &body, &self.registry).map_err(CatalogError::Faults)?;
        let definition = Arc::new(definition);
        if let Ok(mut pinned) = self.pinned.write() {
            pinned.insert(key, Arc::clone(&definition));
        }
        Ok(definition)
    }
}
