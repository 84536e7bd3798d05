-- The tables that the nightly run meets in production, as the services' migrations make them: but without the three foreign
-- keys in foreign_keys.sql, so that orphans can exist.

create table users (
    id          varchar(255) primary key,
    provider    varchar(32)  not null,
    email       varchar(255),
    created_at  timestamptz  not null default now()
);

create table after_hours_profiles (
    user_id      varchar(255) primary key,
    photo_url    text         not null,
    description  text,
    photo_hash   varchar(16),
    created_at   timestamptz  not null default now(),
    updated_at   timestamptz  not null default now()
);

create table after_hours_preferences (
    user_id          varchar(255) primary key,
    seeking_gender   varchar(32)  not null,
    max_distance_km  integer      not null default 50,
    interests        text[]       not null default '{}',
    min_age          integer      not null default 18,
    max_age          integer      not null default 99,
    created_at       timestamptz  not null default now(),
    updated_at       timestamptz  not null default now()
);

create table after_hours_sessions (
    id                uuid         primary key default gen_random_uuid(),
    user_id           varchar(255) not null references users (id) on delete cascade,
    started_at        timestamptz  not null default now(),
    expires_at        timestamptz  not null,
    ended_at          timestamptz,  -- null: active
    latitude          double precision not null,
    longitude         double precision not null,
    fuzzed_latitude   double precision not null,
    fuzzed_longitude  double precision not null,
    created_at        timestamptz  not null default now()
);

create unique index after_hours_sessions_one_active_per_user
    on after_hours_sessions (user_id) where ended_at is null;
create index after_hours_sessions_active_expiry
    on after_hours_sessions (expires_at) where ended_at is null;
create index after_hours_sessions_active_location
    on after_hours_sessions (fuzzed_latitude, fuzzed_longitude) where ended_at is null;

create table after_hours_declines (
    id                 uuid         primary key default gen_random_uuid(),
    session_id         uuid         not null references after_hours_sessions (id) on delete cascade,
    user_id            varchar(255) not null references users (id) on delete cascade,
    declined_user_id   varchar(255) not null references users (id) on delete cascade,
    created_at         timestamptz  not null default now(),
    decline_count      integer      not null default 1,
    first_declined_at  timestamptz  not null default now(),
    last_session_id    uuid,
    unique (user_id, declined_user_id)
);

create index after_hours_declines_session on after_hours_declines (session_id);
create index after_hours_declines_user on after_hours_declines (user_id);
create index after_hours_declines_pair_count on after_hours_declines (user_id, declined_user_id, decline_count);

create table after_hours_matches (
    id                     uuid         primary key default gen_random_uuid(),
    session_id             uuid         not null references after_hours_sessions (id) on delete cascade,
    user_id_1              varchar(255) not null,
    user_id_2              varchar(255) not null,
    expires_at             timestamptz  not null,
    converted_to_match_id  uuid         references after_hours_matches (id),
    declined_by            varchar(255) references users (id) on delete set null,
    declined_at            timestamptz,
    created_at             timestamptz  not null default now()
);

create table after_hours_messages (
    id          uuid         primary key default gen_random_uuid(),
    match_id    uuid         not null references after_hours_matches (id) on delete cascade,
    sender_id   varchar(255) not null,
    text        text         not null,
    created_at  timestamptz  not null default now()
);

create table device_fingerprints (
    id            uuid         primary key default gen_random_uuid(),
    user_id       varchar(255) not null references users (id) on delete cascade,
    session_id    uuid,
    device_id     varchar(255) not null,
    device_model  varchar(255),
    platform      varchar(32),
    created_at    timestamptz  not null default now()
);

create index device_fingerprints_user on device_fingerprints (user_id);
create index device_fingerprints_device on device_fingerprints (device_id);
