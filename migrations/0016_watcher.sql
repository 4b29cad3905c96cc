-- The watcher: what it knows of every object that it has seen below incoming/ (docs/bulk.md#the-watcher).

alter table ingested_objects
  -- What the listing tells too, so that a sweep knows an object again without asking for it.
  add column etag text not null default '',
  add column size_bytes bigint not null default 0 check (size_bytes >= 0),
  add column modified_at timestamptz,
  -- Of a bucket with versions.
  add column version_id text,
  -- As the object says; nothing is decided by it.
  add column content_type text,
  -- Of an upload of ours; null: somebody else put it there.
  add column upload_id uuid,
  -- We deleted it, or found it gone when we wanted to.
  add column removed_at timestamptz,
  add check ((status = 'refused') = (reason is not null)),
  add check (status = 'refused' or (organization_id is not null and job_id is not null));
-- The steps of a job look its object up.
create unique index ingested_objects_by_job on ingested_objects (organization_id, job_id) where job_id is not null;
-- What is still there and may have to go.
create index ingested_objects_kept on ingested_objects (organization_id, first_seen_at) where removed_at is null;
-- The list of refused ones, newest first.
create index ingested_objects_refused on ingested_objects (first_seen_at, bucket, storage_key, generation) where status = 'refused';
grant update (removed_at) on ingested_objects to chartgate_app;

-- Objects that may be deleted now, at most p_limit: those of ended jobs whose bytes are in raw/ and whose URL has ended;
-- refused ones, and those of ended jobs without stored bytes, p_keep_seconds later.
create function removable_objects(p_bucket text, p_keep_seconds double precision, p_limit integer)
returns table (bucket text, storage_key text, generation text, etag text, organization_id uuid, job_id uuid)
language plpgsql volatile as $$
#variable_conflict use_column
declare
  v_now timestamptz := chartgate_now();
  v_kept timestamptz := v_now - p_keep_seconds * interval '1 second';
  v_left integer := p_limit;
  v_count integer;
  v_organization uuid;
begin
  return query
    select o.bucket, o.storage_key, o.generation, o.etag, o.organization_id, o.job_id
    from ingested_objects o
    where o.removed_at is null and o.status = 'refused' and o.bucket = p_bucket and o.first_seen_at < v_kept
    limit v_left;
  get diagnostics v_count = row_count;
  v_left := v_left - v_count;
  for v_organization in
      select distinct o.organization_id from ingested_objects o where o.removed_at is null and o.status = 'ingested' order by 1 loop
    exit when v_left <= 0;
    perform set_config('app.organization', array[v_organization]::text, true);
    return query
      select o.bucket, o.storage_key, o.generation, o.etag, o.organization_id, o.job_id
      from ingested_objects o
      cross join lateral (
        select j.finished_at, j.payload_sha256
        from jobs j
        where j.organization_id = v_organization and j.id = o.job_id and j.finished_at is not null
        offset 0) j
      where o.organization_id = v_organization
        and o.removed_at is null
        and o.status = 'ingested'
        and o.bucket = p_bucket
        -- Earlier, the write-once URL would admit a second PUT.
        and not exists (
          select from uploads u
          where u.organization_id = v_organization and u.id = o.upload_id and u.expires_at > v_now)
        and (j.finished_at < v_kept or exists (
          select from payloads p
          where p.organization_id = v_organization and p.sha256 = j.payload_sha256 and p.stored_at is not null))
      limit v_left;
    get diagnostics v_count = row_count;
    v_left := v_left - v_count;
  end loop;
  perform set_config('app.organization', '', true);
end $$;
