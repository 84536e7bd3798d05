-- The foreign keys that production has and the demo leaves out: where they are, no orphan can exist.

alter table device_fingerprints
    add constraint device_fingerprints_session_id_fkey
    foreign key (session_id) references after_hours_sessions (id) on delete set null;

alter table after_hours_profiles
    add constraint after_hours_profiles_user_id_fkey
    foreign key (user_id) references users (id) on delete cascade;

alter table after_hours_preferences
    add constraint after_hours_preferences_user_id_fkey
    foreign key (user_id) references users (id) on delete cascade;
